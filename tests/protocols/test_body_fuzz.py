"""Bodies, held to Python's own parser: the same meaning, the same bytes, or a refusal."""

import json
import time
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw
from support.fuzz import examples, searching

from server.errors import InvalidRequest
from server.protocols import body

SPACE = st.text(" \t\r\n", max_size=3)
PLAIN = st.sampled_from(
    [
        *("0", "-0", "1.10", "1e0", "-1E+5", "1e-400", "1E400", "9" * 400, "true", "false", "null"),
        *(
            '""',
            '"a\\/b"',
            '"\\u00e9\\n"',
            '"\\ud83d\\ude00"',
            '"é👋\u2028"',
            '"\\u0000"',
            '"\x7f"',
        ),
        *("[]", "{}", "[ 1 ,\n2 ]", '{"a":1,"a":{"model":[]}}', '{ "Model" : "\\\\" }'),
    ]
)
NAMES = st.one_of(
    st.sampled_from([*sorted(body.KNOWN_NAMES), "zeta", "Foo", "", "é", 'q"\\\n', "\u2028"]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: "[" + " ,".join(each) + "]"),
        st.lists(st.tuples(NAMES.map(json.dumps), inner), max_size=3).map(
            lambda pairs: "{" + ",\n".join(f"{name}: {value}" for name, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)
MEMBERS = st.lists(st.tuples(NAMES, NESTED, st.booleans(), SPACE, SPACE), max_size=8)
ASK = b'{"model":"m","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"\\u00e9"}]}'
CHAT = (
    b'{"messages":[],"n":2,"stream_options":{"include_usage":true},"tools":[ {}],'
    b'"response_format":{"type":"json_schema"},"max_completion_tokens":3,"model":"\\ud83d\\ude00"}'
)
TORN = st.sampled_from(
    [
        *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\\u", b"\\ud800", b"\0", b"\xff"),
        *(b"NaN", b"-Infinity", b"1e", b"01", b"\xef\xbb\xbf", b"\xed\xa0\x80", b" ", b"\x0b"),
        *(b'"Model":1,', b'"model":2,', b'"messages":"x",', b'"n":0,', b"[" * 2000, b"{}"),
    ]
)
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), st.one_of(TORN, st.binary())))


def _spelled(name, is_escaped):
    if not is_escaped:
        return json.dumps(name, ensure_ascii=False)
    units = name.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'


def _strictly(raw: bytes):
    """Read as RFC 8259 has it, numbers as they are written; None where it is no such text."""

    def refuse(constant):
        raise ValueError(constant)

    try:
        read = json.loads(raw.decode(), parse_constant=refuse, parse_float=str, parse_int=str)
        json.dumps(read, ensure_ascii=False).encode()  # half a surrogate pair cannot be said
    except (ValueError, RecursionError):
        return None
    return read


def _twins(names):
    return [name for name in set(names) - body.KNOWN_NAMES if name.casefold() in body.KNOWN_NAMES]


@examples(300)
def test_a_sound_body_keeps_its_meaning_and_each_value_its_bytes(examples):
    @searching(examples)
    @given(MEMBERS)
    @example([("model", '"a"', False, "", ""), ("model", '"b"', True, " ", "\n")])
    @example([("\u017ftream", "true", True, "", "")])
    @example([("MODEL", "1", False, "", ""), ("x", "{}", False, "", "")])
    def check(members):
        text = ",".join(
            f"{before}{_spelled(name, is_escaped)}{after}:{before}{value}{after}"
            for name, value, is_escaped, before, after in members
        )
        raw = f"{{{text}}}".encode()
        values = {name: value for name, value, *_ in members}  # of equal names the last wins

        try:
            fields = body.split(raw)
        except InvalidRequest as exc:
            refused = exc.param
        else:
            refused = None
        if refused is not None or _twins(values):
            assert refused in _twins(values)
            return

        assert {name: bytes(value).decode() for name, value in fields.items()} == values
        assert list(fields) == list(values)
        assert _strictly(body.join(fields)) == _strictly(raw)
        assert body.split(body.join(fields)) == fields

    check()


@examples(300)
def test_what_is_replaced_leaves_all_else_as_it_was(examples):
    @searching(examples)
    @given(MEMBERS, st.text(st.characters(codec="utf-8"), max_size=8), st.integers(0, 10**6))
    def check(members, model, limit):
        fields = {name: Raw(value.encode()) for name, value, *_ in members}

        changed = body.with_output_limit(body.with_model(fields, model), "max_tokens", limit)

        again = body.split(body.join(changed)) if not _twins(changed) else changed
        assert json.loads(bytes(again["model"])) == model
        assert json.loads(bytes(again["max_tokens"])) == limit
        ours = {"model", "max_tokens", "max_completion_tokens"}
        assert [(name, bytes(value)) for name, value in again.items() if name not in ours] == [
            (name, bytes(value)) for name, value in fields.items() if name not in ours
        ]

    check()


@examples(1000)
def test_what_is_torn_is_refused_or_read_as_every_parser_reads_it(examples):
    """No body makes an error of ours, and none passes that an upstream reads otherwise."""

    @searching(examples)
    @given(st.sampled_from([ASK, CHAT]), EDITS)
    @example(ASK, [(10, 0, b"\\ud800")])
    @example(ASK, [(89, 0, b"}")])
    @example(CHAT, [(12, 0, b"[" * 2000)])
    @example(b"", [])
    def check(sound, edits):
        raw = sound
        for at, dropped, put in edits:
            place = at % (len(raw) + 1)
            raw = raw[:place] + put + raw[place + dropped :]
        wanted = _strictly(raw)
        wanted = wanted if isinstance(wanted, dict) and not _twins(wanted) else None
        for read in (body.read_messages, body.read_chat):
            try:
                found = read(raw)
            except InvalidRequest:
                continue
            assert wanted is not None
            assert found.model == wanted["model"]
            assert found.stream is bool(wanted.get("stream"))
            assert isinstance(wanted["messages"], list)
            assert found.has_tools or not wanted.get("tools")
        try:
            fields = body.split(raw)
        except InvalidRequest:
            assert wanted is None
            return
        assert _strictly(body.join(fields)) == wanted

    check()


@examples(300)
def test_no_bytes_at_all_make_another_error_than_a_refusal(examples):
    @searching(examples)
    @given(st.one_of(st.binary(), st.lists(TORN).map(b"".join)))
    def check(raw):
        for read in (body.split, body.read_messages, body.read_chat):
            with suppress(InvalidRequest):
                read(raw)

    check()


def test_bodies_made_to_be_slow_cost_time_in_proportion():
    def seconds(raw):
        begun = time.process_time()
        with suppress(InvalidRequest):
            body.read_chat(raw)
        return time.process_time() - begun

    makers = [
        lambda n: b'{"tools":[' + b" " * n + b"],",
        lambda n: b'{"a":"' + b"\\\\" * n + b"\\ud800",
        lambda n: b'{"a":"' + b"\\ud83d" * n,
        lambda n: b'{"a":' + b"9" * n + b"x",
        lambda n: b"{" + b",".join(b'"%x":0' % each for each in range(n // 8)) + b",",
        lambda n: b"{" + b'"model":0,' * (n // 8),
        lambda n: b'{"model":"m","messages":[' + b"[]," * n + b'[]],"tools":[' + b" " * n + b"]}",
        lambda n: b'{"model":"' + "é".encode() * n + b'","messages":[]}',
    ]
    for make in makers:
        small, large = make(50_000), make(400_000)
        assert seconds(large) < 8 * 8 * max(seconds(small), 0.002)
