"""What a command prints: data to stdout, everything that a person reads to stderr."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # rich is slow to import, and a piped command never needs it
    from rich.console import Console, RenderableType


@dataclass(frozen=True, slots=True)
class Share:
    """A cell that people see as a bar: `part` of `whole`."""

    part: int
    whole: int


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; columns named in `numbers` are set to the right.

    None is a cell without a value: empty when piped, a dash for people, who are not shown a
    column without any value. `sections` are further rows for people, each under a heading.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    numbers: frozenset[str] = frozenset()
    title: str | None = None
    sections: Sequence[tuple[str, Sequence[Sequence[object]]]] = ()


@dataclass(slots=True)
class Output:
    """The two streams of a command, and how the global options want them written."""

    as_json: bool = False
    colour: bool = True

    @property
    def for_people(self) -> bool:
        """Whether stdout is a terminal and nobody asked for JSON."""
        return not self.as_json and sys.stdout.isatty()

    def table(self, document: object, table: Table) -> None:
        """Print rows: `document` as JSON, a table for people, tab-separated values in a pipe."""
        if self.as_json:
            self.document(document)
        elif self.for_people:
            terminal = console(colour=self.colour)
            # A terminal wraps what is wider; rich would cut digits off, and nobody could tell.
            terminal.width = max(terminal.width, _least_width(table))
            terminal.print(rich_table(table))
        else:
            for row in table.rows:
                line("\t".join("" if cell is None else plain(cell) for cell in row))

    def value(self, document: object, text: str) -> None:
        """Print one bare value, or `document` as JSON."""
        if self.as_json:
            self.document(document)
        else:
            line(text)

    def text(self, text: str) -> None:
        """Print `text` exactly; a terminal gets the line end that it lacks."""
        sys.stdout.write(text + ("\n" if sys.stdout.isatty() and not text.endswith("\n") else ""))
        sys.stdout.flush()

    def lines(self, document: object, texts: Iterable[str]) -> None:
        """Print one bare value a line, or `document` as JSON."""
        if self.as_json:
            self.document(document)
        else:
            for text in texts:
                line(text)

    def fields(self, document: dict[str, object]) -> None:
        """Print one thing: as JSON, or its fields by name."""
        self.table(document, Table(("field", "value"), list(document.items())))

    def document(self, document: object) -> None:
        """Print `document` as JSON, in ASCII: right in every locale."""
        line(json.dumps(document, indent=2))

    def flush(self) -> None:
        """Write what stdout still keeps."""
        sys.stdout.flush()

    def abandon(self) -> None:
        """Forget what stdout did not take."""
        _abandon(sys.stdout)

    def note(self, text: str) -> None:
        """Tell a person something, on stderr; silent under `--json`.

        A person who cannot be told, at a terminal that has closed, is no reason to fail.
        """
        if not self.as_json:
            try:
                line(text, sys.stderr)
            except OSError:
                _abandon(sys.stderr)

    def sheet(self, title: str, parts: Iterable[tuple[str, str]]) -> None:
        """Tell a person a title and titled commands, on stderr.

        Nothing frames the commands and nothing wraps them: they are there to be copied.
        """
        if not sys.stderr.isatty():
            self.note("\n\n".join([title, *(f"# {name}\n{code}" for name, code in parts)]) + "\n")
            return
        from rich.rule import Rule
        from rich.text import Text

        terminal = console(colour=self.colour, stderr=True)
        terminal.print(Rule(Text(title, "bold green"), style="green"))
        for name, code in parts:
            terminal.print(Text(f"\n# {name}", "dim"))
            terminal.print(Text(code, "bold"), soft_wrap=True)
        terminal.print()
        terminal.print(Rule(style="green"))

    def error(self, message: str, *, code: str, hint: str | None) -> None:
        """Print why a command failed, and how to mend it, on stderr."""
        if self.as_json:
            error = {"code": code, "message": message, "hint": hint}
            line(json.dumps({"error": error}), sys.stderr)
            return
        line(f"error: {message}", sys.stderr)
        if hint:
            line(f"hint: {hint}", sys.stderr)


def stream_rows(
    out: Output,
    documents: Iterator[dict[str, Any]],
    limit: int,
    *,
    columns: Sequence[str],
    csv: bool,
) -> None:
    """Print up to `limit` rows, or all for 0, one at a time, however many there are.

    As JSON, whole; else their `columns`, tab-separated or as CSV with a heading.
    """
    wanted = islice(documents, limit or None)
    if out.as_json:
        line('{"object": "list", "data": [')
        for number, document in enumerate(wanted):
            line(("," if number else "") + json.dumps(document))
        line(f'], "has_more": {json.dumps(next(documents, None) is not None)}}}')
        return
    rows = ([_cell(document[column]) for column in columns] for document in wanted)
    if csv:
        from csv import writer

        lines = writer(sys.stdout, lineterminator="\n")
        lines.writerow(columns)
        lines.writerows(rows)
    else:
        for row in rows:
            line("\t".join(map(plain, row)))


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return json.dumps(value)
    return "" if value is None else value


def prepare_streams() -> None:
    """Have two streams that take any text.

    Where one was closed from the start, for which Python has None, it leads to nowhere; what its
    encoding lacks is written as `?`, where Python would fail.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _abandon(stream: TextIO) -> None:
    """Forget what `stream` did not take: Python would try again at its end, and fail by that."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def line(text: str, stream: TextIO | None = None) -> None:
    """Write one line at once, to stdout unless told otherwise."""
    (stream or sys.stdout).write(text + "\n")
    (stream or sys.stdout).flush()


def plain(cell: object) -> str:
    """Give a cell as text that cannot break its line, nor steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in str(cell))


def console(*, colour: bool, stderr: bool = False) -> "Console":
    """Make a rich console that keeps to `--no-color`, NO_COLOR and TERM=dumb."""
    from rich.console import Console

    wanted = colour and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Console(stderr=stderr, color_system="auto" if wanted else None, highlight=False)


def rich_table(table: Table) -> "RenderableType":
    """Turn `table` into rich's own, with its texts taken literally."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(
        box=box.SIMPLE_HEAD,
        title=table.title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
    )
    shown = _shown(table)
    for column in (table.columns[at] for at in shown):
        made.add_column(
            column,
            justify="right" if column in table.numbers else "left",
            overflow="fold",
            no_wrap=_stays_whole(table, column),
            max_width=_BAR_WIDTH if column == "share" else None,
        )
    for heading, section in (("", table.rows), *table.sections):
        made.add_section()
        if heading:
            made.add_row(Text(heading, "bold"))
        for row in section:
            made.add_row(*(_rich_cell(row[at]) for at in shown))
    return made


def _rows(table: Table) -> list[Sequence[object]]:
    return [*table.rows, *(row for _, section in table.sections for row in section)]


def _shown(table: Table) -> list[int]:
    rows = _rows(table)
    return [at for at in range(len(table.columns)) if any(row[at] is not None for row in rows)]


def _stays_whole(table: Table, column: str) -> bool:
    return column in table.numbers or column == "id"


def _least_width(table: Table) -> int:
    """Tell how wide `table` is where all that may fold is narrow, and all else is whole."""
    from rich.cells import cell_len

    width = 1
    for at in _shown(table):
        cells = (plain(row[at]) for row in _rows(table))
        whole = max(map(cell_len, [*table.columns[at].splitlines(), *cells]))
        width += _GAP + (whole if _stays_whole(table, table.columns[at]) else min(whole, _FOLDED))
    return width


def _rich_cell(cell: object) -> "RenderableType":
    from rich.bar import Bar
    from rich.text import Text

    if isinstance(cell, Share):
        return Bar(max(cell.whole, 1), 0, cell.part, color="green")
    return Text("-", "dim") if cell is None else Text(plain(cell))


_BAR_WIDTH = 24
_FOLDED = 4  # columns that are left of a text, at least
_GAP = 3  # columns between two cells, their padding included
