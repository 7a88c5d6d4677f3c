"""Fit the token estimates, and write down how far off they are.

Run from the repository's root, as docs/tokens.md says. Writes `server/protocols/token_weights.py`,
`tests/data/tokens/held_out.json` and `docs/tokens.md`; takes about a minute.
"""

import json
import subprocess
import sys
from operator import mul
from pathlib import Path
from statistics import median, quantiles

from corpus import HERE, ROOT, Sample, fitting, machine_held_out, own_held_out

from server.protocols import token_weights
from server.protocols.text_tokens import Vocabulary, features, text_tokens

WEIGHTS = ROOT / "server/protocols/token_weights.py"
HELD_OUT = HERE / "held_out.json"
PAGE = ROOT / "docs/tokens.md"
TABLES = {
    "KINDS": "counted in the text rewritten with a letter for each kind of character",
    "LETTERS": "sets of letters, counted together",
    "SPELLINGS": "counted in the text itself",
}

# An estimate that is too low does harm, one that is too high does little: an error below counts
# as much as this many above.
HARM_OF_TOO_LOW = 2.5
# On top of the fit. Claude's newest models find more tokens than the published vocabulary.
SAFETY = {Vocabulary.CLAUDE: 1.02, Vocabulary.O200K: 1.01}
# What coding tools send most counts double: code and prose.
USUAL = ("python", "javascript", "c", "perl", "shell", "html", "diff", "markdown", "prose", "own")
FEW = 2  # tokens: an error of one in a text of ten is no reason to bend a weight

Counted = tuple[str, str, int, int]  # kind, text, Claude's tokens, o200k's tokens


def main(packages: Path) -> None:
    """Fit, then judge by text that the fit has not seen."""
    sample = _counted(fitting(), packages)
    columns = [_weights(sample, vocabulary) for vocabulary in Vocabulary]
    WEIGHTS.write_text(_module(list(zip(*columns, strict=True))))
    own, machine = (_counted(each, packages) for each in (own_held_out(), machine_held_out()))
    HELD_OUT.write_text("[\n" + ",\n".join(map(_line, own)) + "\n]\n")
    # The weights have just changed, under this process too: judged in a fresh one.
    command = [sys.executable, __file__, "--judge"]
    subprocess.run(command, input=json.dumps(machine), text=True, check=True)


def judge(machine: list[Counted]) -> None:
    """Write the page: how far off the estimates are, for each kind of text."""
    own = json.loads(HELD_OUT.read_text())
    before, _, _ = PAGE.read_text().partition("<!-- written by fit.py from here on -->")
    tables = (
        f"## Committed samples ({len(own)})\n\n{_table(own)}\n"
        f"## Files of the machine that it was fitted on ({len(machine)})\n\n{_table(machine)}"
    )
    PAGE.write_text(f"{before}<!-- written by fit.py from here on -->\n\n{tables}")
    sys.stdout.write(tables)


def _counted(samples: list[Sample], packages: Path) -> list[Counted]:
    command = ["node", str(HERE / "count.mjs")]
    texts = json.dumps([text for _, text in samples])
    run = subprocess.run(
        command, input=texts, cwd=packages, capture_output=True, text=True, check=True
    )
    counts = json.loads(run.stdout)
    return [(kind, text, *each) for (kind, text), each in zip(samples, counts, strict=True)]


def _weights(sample: list[Counted], vocabulary: Vocabulary) -> list[float]:
    """Find the weights of least relative error, each kind of text counting alike.

    Repeated least squares, in which estimates that were too low weigh more the next time.
    """
    kinds = [kind for kind, *_ in sample]
    share = [(1 + kind.startswith(USUAL)) / kinds.count(kind) for kind in kinds]
    true = [each[2 + vocabulary] + FEW for each in sample]
    wanted = [1 - FEW / tokens for tokens in true]
    rows = [
        [count / tokens for count in (1, *features(each[1].encode()))]
        for each, tokens in zip(sample, true, strict=True)
    ]
    scale, weights = share, []
    for _ in range(12):
        weights = _least_squares(rows, wanted, scale)
        found = [sum(map(mul, row, weights)) for row in rows]
        scale = [
            part * (HARM_OF_TOO_LOW if guess < want else 1)
            for part, guess, want in zip(share, found, wanted, strict=True)
        ]
    return [weight * SAFETY[vocabulary] for weight in weights]


def _least_squares(rows: list[list[float]], wanted: list[float], scale: list[float]) -> list[float]:
    """Solve the normal equations by elimination; they are few and well behaved."""
    columns = [*zip(*rows, strict=True), wanted]
    scaled = [list(map(mul, column, scale)) for column in columns[:-1]]
    matrix = [[sum(map(mul, one, other)) for other in columns] for one in scaled]
    for at, pivot in enumerate(matrix):
        for row in matrix[:at] + matrix[at + 1 :]:
            factor = row[at] / pivot[at]
            row[:] = [value - factor * over for value, over in zip(row, pivot, strict=True)]
    return [row[-1] / row[at] for at, row in enumerate(matrix)]


def _module(rows: list[tuple[float, ...]]) -> str:
    left = iter(rows)
    lines = [
        '"""What each thing found in a text is worth in tokens: (Claude, o200k).',
        "",
        "Written by tests/data/tokens/fit.py, which keeps the patterns and replaces the numbers.",
        '"""',
        "",
        f"EACH_TEXT = {_pair(next(left))}",
    ]
    for name, what in TABLES.items():
        lines += ["", f"# {what[0].upper()}{what[1:]}.", f"{name} = {{"]
        lines += [
            f"    {_quoted(pattern)}: {_pair(next(left))},"
            for pattern in getattr(token_weights, name)
        ]
        lines.append("}")
    return "\n".join(lines) + "\n"


def _pair(row: tuple[float, ...]) -> str:
    return "({:.4f}, {:.4f})".format(*row)


def _quoted(pattern: bytes) -> str:
    return "b" + json.dumps(pattern.decode())


def _line(sample: Counted) -> str:
    return json.dumps(sample, ensure_ascii=False)


def _table(samples: list[Counted]) -> str:
    head = "| kind of text | samples | Claude: median | 90th | signed |"
    lines = [f"{head} o200k: median | 90th | signed |", "|---|--:" + "|--:" * 6 + "|"]
    for kind in [*sorted({kind for kind, *_ in samples}), "**all**"]:
        chosen = [each for each in samples if kind in (each[0], "**all**")]
        figures = [figure for vocabulary in Vocabulary for figure in errors(chosen, vocabulary)]
        cells = [f"{x:+.1%}" if n % 3 == 2 else f"{x:.1%}" for n, x in enumerate(figures)]
        lines.append(f"| {kind} | {len(chosen)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def errors(samples: list[Counted], vocabulary: Vocabulary) -> tuple[float, float, float]:
    """Give the relative errors' median, their 90th percentile, and the median with its sign."""
    signed = [
        text_tokens(text.encode(), vocabulary) / counts[vocabulary] - 1
        for _, text, *counts in samples
    ]
    sizes = [abs(error) for error in signed]
    ninetieth = quantiles(sizes, n=10, method="inclusive")[-1] if len(sizes) > 1 else sizes[0]
    return median(sizes), ninetieth, median(signed)


if __name__ == "__main__":
    if sys.argv[1] == "--judge":
        judge(json.load(sys.stdin))
    else:
        main(Path(sys.argv[1]))
