"""What /openapi.json promises, asked of a real gateway with data made from it by schemathesis.

No answer is a 5xx, none has a status, a type, a field or a header that the document lacks.
"""

import asyncio

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from support.fake_stripe import fake_stripe
from support.gateways import started
from support.selling import ENVIRON, selling_config
from support.wires import run

from server.routes.openapi import document
from server.routes.paths import TOOL_ROOTS

HELD = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def _strict():
    """Give the document with every answer's shape closed: what it does not name is a fault."""
    made = document()
    for name, shape in made["components"]["schemas"].items():
        if not name.endswith("_request"):
            _close(shape)
    return made


def _close(shape):
    if isinstance(shape, dict):
        if "properties" in shape:
            shape["additionalProperties"] = False
        for each in shape.values():
            _close(each)
    elif isinstance(shape, list):
        for each in shape:
            _close(each)


def _operations(tools):
    schema = schemathesis.openapi.from_dict(_strict())
    for found in schema.get_all_operations():
        operation = found.ok()
        if tools or not operation.path.startswith(tuple(TOOL_ROOTS)):
            yield operation


def _ask(operation, mode, gateway, examples, *, derandomize):
    """Send `examples` requests to one operation; give the statuses that came back."""
    seen = set()

    def check(case):
        reply = case.call(base_url=gateway.url, headers=headers, timeout=10)
        case.validate_response(reply, checks=HELD)
        seen.add(reply.status_code)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "smart"  # or nothing would come as far as a provider
        check(case)

    headers = {"x-api-key": gateway.secret}
    for case in _examples(operation):
        check(case)
    ask()
    return seen


def _examples(operation):
    """Give what the document itself shows, streamed as well where that can be asked for."""
    made = document()
    asked = made["paths"][operation.path][operation.method.lower()].get("requestBody")
    if asked is None:
        return
    name = asked["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    shape = made["components"]["schemas"][name]
    for body in shape.get("examples", ()):
        for more in ({}, {"stream": True}) if "stream" in shape["properties"] else ({},):
            yield operation.Case(body=body | more, media_type="application/json")


async def _held(folder, *, tools, examples, derandomize=True):
    """Ask every operation; give the statuses by method and path."""
    seen = {}

    def ask_all(gateway):
        for operation in _operations(tools):
            statuses = seen.setdefault(operation.label, set())
            for mode in MODES:
                try:
                    statuses |= _ask(operation, mode, gateway, examples, derandomize=derandomize)
                except Unsatisfiable:
                    assert mode is GenerationMode.NEGATIVE  # nothing is asked, nothing is wrong

    with fake_stripe() as fake:
        async with started(folder, selling_config(fake.url), environ=ENVIRON) as gateway:
            await asyncio.to_thread(ask_all, gateway)
    return seen


def test_every_kind_of_route_keeps_what_the_document_says(tmp_path):
    seen = run(lambda: _held(tmp_path, tools=False, examples=12))

    assert all(seen.values())
    for label in ("POST /v1/messages", "POST /v1/chat/completions", "POST /v1/responses"):
        assert seen[label] >= {200, 400}
    assert 201 in seen["POST /tenant/keys"]
    assert 201 in seen["POST /tenant/billing/topup"]


@pytest.mark.slow
def test_every_route_of_every_tool_keeps_it_too(tmp_path):
    seen = run(lambda: _held(tmp_path, tools=True, examples=40, derandomize=False))

    assert all(seen.values())
