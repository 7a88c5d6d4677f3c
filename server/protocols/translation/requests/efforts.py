"""How much to reason, in the words that a Chat server knows."""

from typing import get_args

from msgspec import Raw

from server.protocols.compat import Compat, Effort
from server.protocols.translation.json_text import quoted

EFFORTS: tuple[Effort, ...] = get_args(Effort)
NONE = "none"


def effort_members(asked: str | None, compat: Compat, *, has_tools: bool) -> dict[str, Raw]:
    """Give the members that say how much to reason; none where nothing was asked.

    `asked` is an effort or `none`. What is below all that are known becomes the lowest.
    """
    if compat.effort_with_tools is not None and has_tools:
        return {"reasoning_effort": Raw(quoted(compat.effort_with_tools))}
    if asked == NONE:
        if compat.reasoning_off == "reasoning_effort":
            return {"reasoning_effort": Raw(b'"none"')}
        if compat.reasoning_off == "thinking":
            return {"thinking": Raw(b'{"type":"disabled"}')}
        return {}
    if asked is None or not compat.reasoning_effort:
        return {}
    wanted = next((at for at, effort in enumerate(EFFORTS) if effort == asked), 0)
    return {"reasoning_effort": Raw(quoted(EFFORTS[min(wanted, EFFORTS.index(compat.max_effort))]))}
