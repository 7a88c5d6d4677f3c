"""Write the fault matrix into docs/reliability.md: `python docs/make_fault_matrix.py`.

The table is what tests/e2e/test_fault_matrix.py plays, row by row.
"""

from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).with_name("reliability.md")
BEGIN, END = "<!-- fault matrix -->", "<!-- end of the fault matrix -->"

# What the client gets
ANSWER = "the answer"
FAILED = "502"
TIMED_OUT = "504"
OVERLOADED = "529, over OpenAI's protocol 503"
UNTOLD = "529, over OpenAI's protocol 502"  # whose error events tell no status
TOO_LARGE = "413"
LIMITED = "429"
ENDED = "the answer, ended as at its token limit"
BROKEN = "an error event behind what came"
BROKEN_LATE = "an error event behind what came, of a timeout"
LATE = "an error event behind pings"
# What the request is charged
NOTHING = "nothing"
REPORTED = "as reported"
INPUT = "its input, estimated"
DELIVERED = "what was delivered, estimated"
ESTIMATED = "an estimate"


class Form(NamedTuple):
    """What comes of a request, with one target, and how long that waits.

    `moves` tells whether a second target is asked.
    """

    gets: str
    bill: str = NOTHING
    attempts: int = 3
    moves: bool = True
    waits_s: float = 0


class Row(NamedTuple):
    """A fault: what the provider does, the demo's model that does it, and what comes of it.

    Without a model nobody listens. `waits` are rows whose attempts wait for each other;
    `is_short` ones have timeouts of half a second. Memory may grow by `most_mib`.
    """

    name: str
    words: str
    model: str | None
    stream: Form
    whole: Form
    most_mib: int = 16
    is_silent: bool = False
    is_short: bool = False
    waits: bool = False
    retry_after: str | None = None


SERVED = Form(ANSWER, REPORTED, 1, moves=False)
SILENT = Form(ANSWER, REPORTED, 1, moves=False, waits_s=70)
GUESSED = Form(ANSWER, ESTIMATED, 1, moves=False)
CUT = Form(BROKEN, DELIVERED, 1, moves=False)
REFUSED = Form(FAILED)
TAKEN = Form(FAILED, INPUT)  # it said 200 first
BUSY = Form(OVERLOADED)
ONCE = Form(FAILED, attempts=1)
STOPPED = Form(ENDED, DELIVERED, 1, moves=False)
OVERFULL = Form(FAILED, INPUT, 1, moves=False)

ROWS = [
    Row("refused", "refuses the connection", None, REFUSED, REFUSED),
    Row("closed", "closes it without an answer", "fault:refuse", REFUSED, REFUSED),
    Row("reset", "resets it", "fault:reset", REFUSED, REFUSED),
    Row("slow-head", "no head for 70 s", "fault:slow:{silent_s}", SILENT, SILENT, is_silent=True),
    Row(
        "silent",
        "silent for 70 s in the middle",
        "fault:stall:{silent_s}",
        SILENT,
        SILENT,
        is_silent=True,
    ),
    Row(
        "late-head",
        "no head within `first_byte_s`, here 0.5 s",
        "fault:slow:30",
        Form(LATE, waits_s=1.5),
        Form(TIMED_OUT, waits_s=1.5),
        is_silent=True,
        is_short=True,
    ),
    Row(
        "late",
        "silent for `idle_s` in the middle, here 0.5 s",
        "fault:stall:30",
        Form(BROKEN_LATE, DELIVERED, 1, moves=False, waits_s=0.5),
        Form(TIMED_OUT, INPUT, waits_s=1.5),
        is_silent=True,
        is_short=True,
    ),
    Row("cut", "closes in the middle of an event", "fault:cut", CUT, TAKEN),
    Row("cut-clean", "ends before the last event", "fault:cut-clean", CUT, TAKEN),
    Row("reset-midway", "resets it in the middle of an event", "fault:rst-mid", CUT, TAKEN),
    Row("garbage", "garbage between events, or for an answer", "fault:garbage", SERVED, TAKEN),
    Row("endless-line", "a line without end", "fault:endless-line", CUT, OVERFULL, most_mib=150),
    Row("endless", "an answer without end", "fault:endless:0", STOPPED, OVERFULL, most_mib=150),
    Row("gzip-bomb", "a compression bomb", "fault:gzipbomb", TAKEN, TAKEN, most_mib=48),
    Row("401", "401", "fault:unauthorized", ONCE, ONCE),
    Row("403", "403", "fault:forbidden", ONCE, ONCE),
    Row("404", "404", "fault:notfound", ONCE, ONCE),
    Row("408", "408", "fault:timeout", Form(TIMED_OUT), Form(TIMED_OUT)),
    Row("413", "413", "fault:toolarge", *[Form(TOO_LARGE, attempts=1, moves=False)] * 2),
    Row(
        "429-soon",
        "429 with `retry-after: 1`",
        "fault:ratelimit:1",
        Form(LIMITED, waits_s=2),
        Form(LIMITED, waits_s=2),
        waits=True,
        retry_after="1",
    ),
    Row(
        "429-late",
        "429 with `retry-after: 30`",
        "fault:ratelimit:30",
        Form(LIMITED, attempts=1),
        Form(LIMITED, attempts=1),
        retry_after="30",
    ),
    Row(
        "429",
        "429 without `retry-after`",
        "fault:ratelimit:none",
        Form(LIMITED, waits_s=10),
        Form(LIMITED, waits_s=10),
        waits=True,
    ),
    Row("500", "500", "fault:error", REFUSED, REFUSED),
    Row("503", "503", "fault:unavailable", BUSY, BUSY),
    Row("529", "529", "fault:overloaded", BUSY, BUSY),
    Row("error-first", "an error event first", "fault:error-first", Form(UNTOLD), BUSY),
    Row("error-midway", "an error event midway, or 500", "fault:error-mid", CUT, REFUSED),
    Row("no-usage", "tells no usage", "fault:no-usage", GUESSED, GUESSED),
    Row("absurd-usage", "tells an absurd usage", "fault:weird-usage", GUESSED, GUESSED),
    Row("wrong-type", "an HTML page under a 200", "fault:wrong-type", TAKEN, TAKEN),
    Row("redirect", "a redirect", "fault:redirect", REFUSED, REFUSED),
    Row("continue", "100 Continue before the answer", "fault:continue", SERVED, SERVED),
]

_HEAD = """\
| the provider | one target: the client gets | with a second target behind | bill of one target | \
attempts | after | held | open calls | memory |
|---|---|---|---|---|---|---|---|---|"""


def render() -> str:
    """Give the table, marks included."""
    return "\n".join([BEGIN, _HEAD, *map(_line, ROWS), END])


def page() -> str:
    """Give the page with the table in it; a mark alone becomes both."""
    before, _, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    return before + render() + (after if mark else rest)


def _line(row: Row) -> str:
    stream, whole = row.stream, row.whole
    cells = [
        row.words,
        _either(stream.gets, whole.gets),
        _either(_behind(stream), _behind(whole)),
        _either(stream.bill, whole.bill),
        _either(str(stream.attempts), str(whole.attempts)),
        _either(_after(stream), _after(whole)),
        *("0", "0", f"< {row.most_mib} MiB"),
    ]
    return f"| {' | '.join(cells)} |"


def _behind(form: Form) -> str:
    return "the second's answer" if form.moves else "the same"


def _after(form: Form) -> str:
    return f"{form.waits_s:g} s" if form.waits_s else "at once"


def _either(stream: str, whole: str) -> str:
    return stream if stream == whole else f"stream: {stream}; whole: {whole}"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(f"wrote {TARGET}")
