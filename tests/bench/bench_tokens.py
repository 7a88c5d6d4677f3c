"""How long a body of a megabyte takes to be estimated, whatever it is made of.

Run it on a quiet machine: `python tests/bench/bench_tokens.py [--bytes 1000000]`. The event loop
stands still for as long; the promise is 50 ms of CPU for a megabyte, of usual text and of text
made to take long.
"""

import argparse
import base64
import json
import random
import sys
import time
from pathlib import Path

from msgspec import Raw

from server.protocols import body, tokens

ROOT = Path(__file__).parents[2]
PROSE = ROOT / "tests/data/tokens/prose/held"
ROUNDS = 5


def main() -> None:
    """Print, for each kind of body, the least CPU time of some rounds, and the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    size = parser.parse_args().bytes
    sys.stdout.write(f"{'body':<28}{'ms':>8}{'MB/s':>8}{'tokens':>10}\n")
    for kind, turns in bodies(size).items():
        fields = body.split(b'{"messages":[%b]}' % turns)
        spent = min(_seconds(fields) for _ in range(ROUNDS))
        found = tokens.estimate_messages(fields)
        rate = len(turns) / spent / 1e6
        sys.stdout.write(f"{kind:<28}{spent * 1e3:>8.1f}{rate:>8.0f}{found:>10,}\n")


def bodies(size: int) -> dict[str, bytes]:
    """Make the bodies: their turns, each about `size` bytes of JSON."""
    dice = random.Random(1)
    code = "".join(path.read_text() for path in sorted((ROOT / "server").rglob("*.py")))
    english, chinese, russian = ((PROSE / f"{name}.txt").read_text() for name in ("en", "zh", "ru"))
    records = json.dumps([{"id": n, "name": f"user {n}", "tags": ["a", "b"]} for n in range(99)])
    printable = [chr(code) for code in range(32, 127)]
    texts = {
        "prose": english,
        "code": code,
        "JSON in JSON": records,
        "JSON in JSON in JSON": json.dumps(json.dumps(code)),
        "base64": base64.b64encode(dice.randbytes(size)).decode(),
        "Chinese": chinese,
        "Russian": russian,
        "digits": "".join(dice.choices("0123456789", k=size)),
        "spaces": " ",
        "empty lines": "\n",
        "one letter": "a",
        "changing case": "aA",
        "letter, mark": ".a",
        "slashes": "\\/",
        "anything": "".join(dice.choices(printable, k=size)),
    }
    made = {kind: _turn(text, size, ascii_only=False) for kind, text in texts.items()}
    made["Chinese, escaped"] = _turn(chinese, size, ascii_only=True)
    for kind, turn in {
        "turns without text": b"{}",
        "turns of one letter": b'{"role":"user","content":"a"}',
        "turns of empty parts": b'{"content":[%b]}' % b",".join([b"{}"] * 70),
    }.items():
        made[kind] = b",".join([turn] * (size // (len(turn) + 1)))
    return made


def _turn(text: str, size: int, *, ascii_only: bool) -> bytes:
    """Give one turn whose text repeats as often as `size` bytes of JSON hold it."""
    times = size // (len(json.dumps(text, ensure_ascii=ascii_only).encode()) - 2)
    turn = {"role": "user", "content": text * max(1, times)}
    return json.dumps(turn, ensure_ascii=ascii_only).encode()


def _seconds(fields: dict[str, Raw]) -> float:
    began = time.process_time()
    tokens.estimate_messages(fields)
    return time.process_time() - began


if __name__ == "__main__":
    main()
