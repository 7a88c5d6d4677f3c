"""The document at /openapi.json: whole, open to all, and about nothing that is not served."""

import re

from sanic import Sanic
from support.gateways import DEMO_CONFIG, started
from support.wires import run

from server.routes.openapi import document

METHODS = {"get", "post", "delete", "put", "patch", "head", "options", "trace"}


def _described(made):
    return {
        (path, method.upper())
        for path, methods in made["paths"].items()
        for method in methods.keys() & METHODS
    }


def _served(gateway):
    app = Sanic.get_app(f"gatewayctl-{id(gateway.services):x}")
    return {
        (re.sub(r"<(\w+)[^>]*>", r"{\1}", "/" + route.path), method)
        for route in app.router.routes
        for method in route.methods
    }


def _refs(value):
    if isinstance(value, dict):
        yield from (each for key, each in value.items() if key == "$ref")
        yield from (ref for each in value.values() for ref in _refs(each))
    elif isinstance(value, list):
        yield from (ref for each in value for ref in _refs(each))


def test_every_route_that_is_served_is_described_and_no_other(tmp_path):
    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway:
            return _served(gateway)

    served = run(scenario)

    heads = {(path, "HEAD") for path, method in served if method == "GET"}
    assert _described(document()) | heads == served


def test_anyone_may_read_it_and_it_is_what_was_built(tmp_path):
    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway, gateway.client() as client:
            del client.headers["x-api-key"]
            return await client.get("/openapi.json")

    reply = run(scenario)

    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json() == document()


def test_every_name_that_it_uses_it_defines_and_the_reverse():
    made = document()
    parts = made["components"]

    used = set(_refs(made))
    named = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in parts[kind]
    }
    responses = {f"#/components/responses/{name}" for name in parts["responses"]}
    assert used <= named | responses
    assert named <= used


def test_a_route_without_a_key_never_answers_401_and_any_other_may():
    for path, methods in document()["paths"].items():
        for method in methods.keys() & METHODS:
            told = methods[method]
            wants_key = {"bearer": []} in told["security"]
            assert (path, "401" in told["responses"]) == (path, wants_key)
