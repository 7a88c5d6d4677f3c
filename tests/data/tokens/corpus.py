"""The text that the token estimates are fitted on, and the text that they are judged by.

Taken from what stands on any machine (Python's library, node's own sources, manual pages), from
this repository, and from generators with a seed. Nothing of it is committed but what is ours.
"""

import base64
import gzip
import hashlib
import json
import random
import subprocess
import sysconfig
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FILES_PER_KIND = 80
LANGUAGES = ("en", "de", "fr", "ru", "zh", "ja")
FEW_WORDS_OF = ("es", "ko", "el", "ar", "hi")  # fitted on a little, and judged by nothing of ours
MANUALS = {"en": "man1", "zh": "zh_CN"} | {
    tongue: tongue for tongue in ("de", "es", "fr", "ja", "ko", "pl", "ru")
}
LENGTHS = (24, 60, 120, 200, 400, 800, 1500, 3000, 8000)  # characters of a sample

Sample = tuple[str, str]  # kind, text


def fitting(seed: int = 1) -> list[Sample]:
    """Give what the estimates are fitted on: no file of it is in `machine_held_out`."""
    dice = random.Random(seed)
    whole = [*_machine(dice, held=False), *_prose("fit"), *_repository(held=False)]
    return _cut(whole, dice) + _generated(dice, 40)


def machine_held_out(seed: int = 2) -> list[Sample]:
    """Give held-out text of this machine, too much and not ours to commit."""
    dice = random.Random(seed)
    return _cut(list(_machine(dice, held=True)), dice)


def own_held_out(seed: int = 3) -> list[Sample]:
    """Give held-out text that is ours: small enough to be committed with its true counts."""
    dice = random.Random(seed)
    whole = [*_prose("held"), *_code(), *_repository(held=True)]
    return _cut(whole, dice, per_text=3) + _generated(dice, 4)


def _cut(whole: list[Sample], dice: random.Random, per_text: int = 4) -> list[Sample]:
    """Cut samples of many lengths out of each text; count_tokens is asked about fragments too."""
    samples = []
    for kind, text in whole:
        for length in dice.sample(LENGTHS, per_text):
            at = dice.randrange(max(1, len(text) - length))
            piece = text[at : at + length]
            if piece.strip():
                samples.append((kind, piece))
    return samples


def _machine(dice: random.Random, *, held: bool) -> Iterator[Sample]:
    library = Path(sysconfig.get_path("stdlib"))
    places = [
        ("python", sorted(library.rglob("*.py"))),
        ("javascript", sorted(Path("/usr/lib/node_modules").rglob("*.js"))),
        ("c", sorted(Path("/usr/include").rglob("*.h"))),
        ("perl", sorted(Path("/usr/share/perl").rglob("*.p[lm]"))),
        ("shell", sorted(Path("/usr/share/bash-completion").rglob("*[a-z]"))),
        ("markdown", sorted(Path("/usr/lib/node_modules").rglob("*.md"))),
        ("licence", sorted(Path("/usr/share/common-licenses").glob("*"))),
        ("json", sorted(Path("/usr/lib/node_modules").rglob("*.json"))),
        ("xml", sorted(Path("/usr/share").rglob("*.xml"))),
        ("html", sorted(Path("/usr/lib/node_modules").rglob("*.html"))),
        *((f"manual-{tongue}", sorted(Path("/usr/share/man", folder).rglob("*.gz")))
          for tongue, folder in MANUALS.items()),
    ]  # fmt: skip
    for kind, paths in places:
        usable = [p for p in paths if p.is_file() and _is_held(p) == held]
        count = FILES_PER_KIND if not held else FILES_PER_KIND // 4
        for path in dice.sample(usable, min(count, len(usable))):
            text = _read(path)
            if len(text) > 100:
                yield kind, text
                if kind in ("python", "json", "manual-zh", "javascript"):
                    yield kind + " in json", _escaped(text[:20_000], dice)


def _is_held(path: Path) -> bool:
    return hashlib.sha256(path.name.encode()).digest()[0] < 64


def _read(path: Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""


def _escaped(text: str, dice: random.Random) -> str:
    """Give text as a string inside JSON that is itself text, as a tool's result holds it."""
    return json.dumps(
        {"path": "src/app.py", "ok": True, "content": text},
        ensure_ascii=dice.random() < 0.5,
        indent=dice.choice([None, 2]),
    )


def _prose(folder: str) -> Iterator[Sample]:
    for tongue in LANGUAGES + (FEW_WORDS_OF if folder == "fit" else ()):
        text = (HERE / "prose" / folder / f"{tongue}.txt").read_text()
        for _ in range(6 if folder == "fit" else 2):
            yield f"prose-{tongue}", text


def _code() -> Iterator[Sample]:
    for path in sorted((HERE / "code").iterdir()):
        yield f"code-{path.suffix[1:]}", path.read_text()


def _repository(*, held: bool) -> Iterator[Sample]:
    """Give our own modules, pages and history; each file on one side only."""
    for folder, kind in (("server", "python"), ("gatewayctl", "python"), ("docs", "markdown")):
        for path in sorted((ROOT / folder).rglob("*.py" if kind == "python" else "*.md")):
            # Few are committed: enough that each kind is there.
            if _is_held(path) == held and (not held or len(path.name) % 3 == 0):
                yield f"own-{kind}", path.read_text()
    history = ["git", "-C", str(ROOT), "log", "-p", "--no-color", "-12", "3377ca1"]
    skipped = [*history[:5], "--skip=" + ("40" if held else "0"), *history[5:]]
    log = subprocess.run(skipped, capture_output=True, text=True, check=True).stdout
    for at in range(0, min(len(log), 120_000), 30_000 if held else 10_000):
        yield "diff", log[at : at + 10_000]


def _generated(dice: random.Random, count: int) -> list[Sample]:
    makers = (_base64, _wrapped_base64, _hex, _numbers, _logs, _records, _pretty, _uuids, _csv,
              _table, _spaces, _identifiers, _emoji, _hashes, _rules)  # fmt: skip
    samples = []
    for maker in makers:
        for _ in range(count):
            kind = maker.__name__[1:].replace("_", " ")
            samples.append((kind, maker(dice, dice.choice(LENGTHS))))
    return samples


_WORDS = """
    account active amount archive batch billing branch buffer cache client commit config count
    customer data date delay device domain email entry error event export feature field file
    filter flag group handler hash header host id index input invoice item job key label level
    limit link list locale lock log member message method model module name node note number
    object offset option order output owner page parent path payload plan policy port prefix
    price profile queue quota range rate reason record region report request result retry role
    route rule scope score secret server session shard size slot source stage state status step
    stream table tag target task team tenant time token topic total trace type unit update url
    user value vendor version view volume warning weight window worker zone
""".split()  # noqa: SIM905 - a list of them would take a page


def _words(dice: random.Random, least: int, most: int) -> list[str]:
    return dice.choices(_WORDS, k=dice.randint(least, most))


def _base64(dice: random.Random, length: int) -> str:
    return base64.b64encode(dice.randbytes(length))[:length].decode()


def _wrapped_base64(dice: random.Random, length: int) -> str:
    return base64.encodebytes(dice.randbytes(length))[:length].decode()


def _hex(dice: random.Random, length: int) -> str:
    return dice.randbytes(length // 2).hex()


def _hashes(dice: random.Random, length: int) -> str:
    lines = (
        f"{dice.randbytes(20).hex()}  src/{'/'.join(_words(dice, 1, 3))}.py" for _ in range(99)
    )
    return "\n".join(lines)[:length]


def _numbers(dice: random.Random, length: int) -> str:
    style = dice.choice(["%d", "%.2f", "%.6f"])
    gap = dice.choice([", ", " ", "\n", ""])
    return gap.join(style % dice.uniform(0, 10 ** dice.randint(1, 7)) for _ in range(length))[
        :length
    ]


def _uuids(dice: random.Random, length: int) -> str:
    ids = (str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(length // 36 + 1))
    return dice.choice(["\n", ", ", '", "']).join(ids)[:length]


def _when(dice: random.Random) -> str:
    day = dice.randint(1, 28)
    clock = (dice.randint(0, 23), dice.randint(0, 59), dice.randint(0, 59))
    month, time = dice.randint(1, 12), ":".join(f"{part:02}" for part in clock)
    return f"2026-{month:02}-{day:02}T{time}.{day * 9:03}Z"


def _logs(dice: random.Random, length: int) -> str:
    lines, style, at = [], dice.choice([_app_line, _access_line, _json_line]), 0
    while at < length:
        lines.append(style(dice))
        at += len(lines[-1])
    return "\n".join(lines)[:length]


def _app_line(dice: random.Random) -> str:
    level, took = dice.choice(_LEVELS), dice.randint(1, 5000)
    words = " ".join(_words(dice, 2, 9))
    return f"{_when(dice)} {level:5} [{dice.choice(_WORDS)}-{took % 9}] {words} took {took}ms"


def _access_line(dice: random.Random) -> str:
    path, status, size = (
        "/".join(_words(dice, 1, 4)),
        dice.choice(_STATUSES),
        dice.randint(1, 35_000),
    )
    host = f"10.{size % 256}.{status % 256}.7"
    return f'{host} - - [{_when(dice)}] "GET /{path}?id={size // 7} HTTP/1.1" {status} {size}'


def _json_line(dice: random.Random) -> str:
    words, level = " ".join(_words(dice, 2, 9)), dice.choice(_LEVELS).lower()
    return json.dumps(
        {"ts": _when(dice), "level": level, "msg": words, "ms": dice.randint(1, 5000)}
    )


_LEVELS = ("INFO", "DEBUG", "WARN", "ERROR")
_STATUSES = (200, 201, 304, 404, 500)


def _record(dice: random.Random, levels: int = 2) -> dict[str, object]:
    made: dict[str, object] = {}
    for word in _words(dice, 3, 8):
        name = dice.choice([word, f"{word}_id", f"is{word.title()}", f"{word}Count"])
        made[name] = dice.choice([
            dice.randint(0, 99999), dice.random() < 0.5, None, " ".join(_words(dice, 1, 6)),
            _when(dice), round(dice.uniform(0, 900), 2), _words(dice, 0, 3),
            _record(dice, levels - 1) if levels else dice.choice(_WORDS),
        ])  # fmt: skip
    return made


def _records(dice: random.Random, length: int) -> str:
    gaps = dice.choice([(",", ":"), (", ", ": ")])
    return json.dumps([_record(dice) for _ in range(length // 80 + 1)], separators=gaps)[:length]


def _pretty(dice: random.Random, length: int) -> str:
    made = [_record(dice, 3) for _ in range(length // 150 + 1)]
    return json.dumps(made, indent=dice.choice([2, 4]))[:length]


def _csv(dice: random.Random, length: int) -> str:
    rows = (
        f"{n},{dice.choice(_WORDS)},{_when(dice)[:10]},{dice.uniform(0, 999):.2f},"
        + " ".join(_words(dice, 1, 3))
        for n in range(length // 20)
    )
    return "\n".join(rows)[:length]


def _table(dice: random.Random, length: int) -> str:
    rows = [
        f"{dice.choice(_WORDS):<16}{dice.randint(0, 99999):>9}  {' '.join(_words(dice, 1, 4)):<40}|"
        for _ in range(length // 40 + 1)
    ]
    return "\n".join(rows)[:length]


def _spaces(dice: random.Random, length: int) -> str:
    code = textwrap.indent(
        "if x:\n    return y\n" * (length // 20), " " * dice.choice([8, 16, 24, 40])
    )
    return code[:length]


def _identifiers(dice: random.Random, length: int) -> str:
    made = []
    for _ in range(length // 8):
        words = _words(dice, 2, 4)
        made.append(dice.choice([
            "_".join(words), "".join(w.title() for w in words), "_".join(words).upper(),
            words[0] + "".join(w.title() for w in words[1:]), "-".join(words), ".".join(words),
        ]))  # fmt: skip
    return dice.choice([" ", ", ", "\n", "();\n"]).join(made)[:length]


def _emoji(dice: random.Random, length: int) -> str:
    marks = "😀🎉🚀🔥👍✅❌⚠️→•—…✨📦🐛├─└│═█"
    return " ".join(dice.choice([dice.choice(marks), *_words(dice, 2, 2)]) for _ in range(length))[
        :length
    ]


def _rules(dice: random.Random, length: int) -> str:
    """Give headings over ruled lines, and empty lines in numbers, as terminals print them."""
    made = []
    for _ in range(length // 40 + 1):
        made += [" ".join(_words(dice, 1, 5)), dice.choice("-=*#.~_") * dice.randint(10, 80)]
        made += [" " * dice.randint(0, 60)] * dice.randint(0, 2)
    return "\n".join(made)[:length]
