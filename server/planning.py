"""What leaves for a request: which model, with which preset, in which protocol. Pure."""

from collections.abc import Mapping

from msgspec import Raw

from server.billing.pricing import check_extras
from server.calls import Asked, Plan, Rules
from server.config.schema import Target
from server.presets import apply
from server.presets.load import Preset
from server.protocols import Protocol, body
from server.protocols.body import Body
from server.protocols.by_protocol import ESTIMATE, EXTRAS
from server.protocols.compat import Compat, dropped
from server.protocols.reading import read
from server.protocols.translation import Translated, ways
from server.protocols.translation.requests import mended_chat, mended_messages
from server.protocols.translation.requests.fitted_chat import fitted

_APPLY = {Protocol.ANTHROPIC: apply.apply_messages, Protocol.OPENAI: apply.apply_chat}
_AUDIO = b'"audio"'


def ask(raw: bytes, protocol: Protocol, tool: str | None, rules: Rules) -> Asked:
    """Read the request, resolve the model, splice the preset: what no provider changes.

    Raises:
        InvalidRequest, ModelNotFound: the request cannot be served.
    """
    request = read(raw, protocol, tool)
    preset = rules.presets.get(tool) if tool is not None else None
    return Asked(request, _model(request, tool, preset, rules), _tuned(request, preset, rules))


def plan(asked: Asked, model: str, target: Target, rules: Rules) -> Plan:
    """Make of a request what leaves for a target of `model`: translate, and address it.

    Raises:
        InvalidRequest: that target cannot serve it.
    """
    request, price = asked.request, rules.prices.get(model)
    compat = rules.compat[target.upstream]
    most_output = rules.config.models[model].max_output_tokens
    spoken = rules.spoken_by(target, request.protocol)
    if spoken is request.protocol:
        leaving = Translated(_mended(asked.fields, request, compat), {})
    else:
        leaving = ways.request(asked.fields, spoken, compat=compat, max_tokens=most_output)
    streamed = request.stream or (
        _may_be_long(request, most_output, rules) and _can_stream(leaving.fields, spoken, compat)
    )
    fields = _addressed(leaving.fields, spoken, compat, target, streamed=streamed)
    extras = EXTRAS[spoken](fields)
    check_extras(price, extras)
    return Plan(
        request=request,
        model=model,
        target=target,
        protocol=spoken,
        streamed=streamed,
        fields=fields,
        payload=body.join(fields),
        price=price,
        extras=extras,
        names=leaving.names,
    )


def _model(request: Body, tool: str | None, preset: Preset | None, rules: Rules) -> str:
    return rules.routing.resolve(
        request.model,
        tool=tool,
        preset_model=None if preset is None else preset.model,
        input_tokens_estimate=lambda: ESTIMATE[request.protocol](request.fields),
    )


def _tuned(request: Body, preset: Preset | None, rules: Rules) -> dict[str, Raw]:
    """Splice the tool's preset into the request, where it is wanted."""
    if preset is None or not apply.should_inject(
        preset, has_tools=request.has_tools, wants_schema=request.wants_schema
    ):
        return request.fields
    return _APPLY[request.protocol](request.fields, rules.texts[preset.tool])


def _mended(fields: dict[str, Raw], request: Body, compat: Compat) -> dict[str, Raw]:
    """Rid a request that needs no translation of what its upstream would refuse all the same."""
    if request.protocol is Protocol.ANTHROPIC:
        return dict(mended_messages.mended(fields))
    is_own = request.asked is not None
    mended = mended_chat.mended(fields, compat, is_own=is_own)
    return fitted(mended, compat) if is_own else mended


def _may_be_long(request: Body, most_output: int, rules: Rules) -> bool:
    """Tell whether an answer may take so long that an idle connection would be cut.

    Such a request leaves as a stream, and its hold grows like a stream's; one slice of output
    is held at once in any case.
    """
    limit = most_output if request.max_tokens is None else request.max_tokens
    return limit * request.choices > rules.config.billing.hold_slice_tokens


def _can_stream(fields: Mapping[str, Raw], spoken: Protocol, compat: Compat) -> bool:
    """Tell whether a stream would bring the same answer, its usage included."""
    if spoken is Protocol.ANTHROPIC:
        return True
    return compat.stream_usage and _AUDIO not in bytes(fields.get("modalities", b""))


def _addressed(
    fields: dict[str, Raw], spoken: Protocol, compat: Compat, target: Target, *, streamed: bool
) -> dict[str, Raw]:
    """Say whether a stream is wanted, and of which model; leave out what the server refuses."""
    if streamed:
        fields = {**fields, "stream": Raw(b"true")}
        if spoken is Protocol.OPENAI and compat.stream_usage:
            fields = body.with_include_usage(fields)
    return body.with_model(dropped(fields, compat), target.model)
