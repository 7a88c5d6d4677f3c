"""Request bodies, the same in every run: a small question, and a turn of a coding agent."""

import json

SYSTEM_BYTES = 14_500
TOOLS = 16
TURNS = 12  # of two messages each; the question on top makes 25

_PROSE = """\
Read the function and its callers before the first change. A test that fails comes before the
mend, and it fails for the reason that was reported: "expected 3, got 2", not an import error.
    def settle(self, hold: Hold, charge: int) -> None:
        if charge > hold.micros:
            raise ValueError(f"charge {charge} is above {hold.micros}")
        self.balance -= charge\t# released with the rest
Paths such as C:\\work\\api or /srv/api/main.py are quoted as they stand; so are names like Zoë.
"""


def body(size: str, protocol: str, *, model: str, stream: bool) -> bytes:
    """Give a request's JSON: `small` is about 1.9 KB; `large`, Messages only, about 60 KB."""
    start = {"model": model, "max_tokens": 1024, "stream": stream}
    if size == "large":
        return _encoded(start | _agent_turn())
    question = {"role": "user", "content": _text(1260, 40)}
    if protocol == "anthropic":
        return _encoded(start | {"system": _text(480, 0), "messages": [question]})
    system = {"role": "system", "content": _text(480, 0)}
    return _encoded(start | {"messages": [system, question]})


def _agent_turn() -> dict[str, object]:
    cached = {"cache_control": {"type": "ephemeral"}}
    messages: list[object] = []
    for turn in range(TURNS):
        messages += _tool_call(turn)
    question = [_result(TURNS), _block(600, 9) | cached]
    messages.append({"role": "user", "content": question})
    return {
        "system": [_block(60, 0), _block(SYSTEM_BYTES, 1) | cached],
        "tools": [_tool(number) for number in range(TOOLS)],
        "messages": messages,
    }


def _tool_call(turn: int) -> list[object]:
    """Give what the agent said and called, after what it was told; in the order of a session."""
    call_id = f"toolu_bench{turn:04}"
    call = {"type": "tool_use", "id": call_id, "name": f"Tool{turn}", "input": {"path": "main.py"}}
    return [
        {"role": "user", "content": [_result(turn) if turn else _block(800, turn)]},
        {"role": "assistant", "content": [_block(850, turn + 50), call]},
    ]


def _result(turn: int) -> dict[str, object]:
    """Give what the call of the turn before brought."""
    told = {"type": "tool_result", "tool_use_id": f"toolu_bench{turn - 1:04}"}
    return told | {"content": _text(800, turn)}


def _tool(number: int) -> dict[str, object]:
    properties = {
        "path": {"type": "string", "description": _text(60, number)},
        "offset": {"type": "integer", "description": _text(80, number + 3)},
        "limit": {"type": "integer", "description": _text(80, number + 5)},
    }
    schema = {"type": "object", "properties": properties, "required": ["path"]}
    return {
        "name": f"Tool{number}",
        "description": _text(720, number * 7),
        "input_schema": schema | {"additionalProperties": False},
    }


def _block(length: int, begin: int) -> dict[str, object]:
    return {"type": "text", "text": _text(length, begin)}


def _text(length: int, begin: int) -> str:
    return (_PROSE * ((begin + length) // len(_PROSE) + 1))[begin : begin + length]


def _encoded(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
