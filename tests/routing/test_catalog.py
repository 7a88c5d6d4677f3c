from datetime import UTC, datetime

import msgspec
import pytest

from server.config.schema import Config
from server.errors import ModelNotFound
from server.routing.catalog import Catalog, unknown_model

CREATED = datetime(2026, 11, 22, 13, 7, tzinfo=UTC)
MODEL = {"targets": [{"upstream": "demo", "model": "m"}], "free": True}


def config(**keys):
    base = {
        "upstreams": {"demo": {"protocol": "demo"}},
        "models": {"smart": MODEL, "fast": MODEL},
        "aliases": {"claude-*": "smart", "gpt-5": "fast", "o?": "smart", "x[1m]": "fast"},
        "auto": {"default": "smart"},
    }
    return msgspec.convert({**base, **keys}, Config)


def catalog(**keys):
    return Catalog.of(config(**keys), CREATED)


def ids(page):
    return [item["id"] for item in page["data"]]


def test_an_item_carries_what_the_strict_clients_of_both_vendors_need():
    assert catalog().item("smart") == {
        "id": "smart",
        "object": "model",
        "created": 1795352820,
        "owned_by": "gatewayctl",
        "type": "model",
        "display_name": "smart",
        "created_at": "2026-11-22T13:07:00Z",
        "lifecycle": "active",
    }


def test_the_list_names_auto_then_models_then_plain_aliases():
    page = catalog().page()

    assert ids(page) == ["auto", "claude-auto", "smart", "fast", "gpt-5"]
    assert page["object"] == "list"
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "auto", "gpt-5")


def test_auto_is_listed_only_where_it_can_serve():
    rule = {"when": {"tool": "cline"}, "use": "fast"}

    assert ids(catalog(auto={}).page()) == ["smart", "fast", "gpt-5"]
    assert ids(catalog(auto={"rules": [rule]}).page())[0] == "auto"


def test_a_name_that_is_a_model_and_an_alias_is_listed_once():
    assert ids(catalog(aliases={"fast": "smart"}).page()).count("fast") == 1


@pytest.mark.parametrize(
    ("asked", "expected", "has_more"),
    [
        ({"limit": 2}, ["auto", "claude-auto"], True),
        ({"limit": 1000}, ["auto", "claude-auto", "smart", "fast", "gpt-5"], False),
        ({"limit": 0}, ["auto"], True),
        ({"limit": -5}, ["auto"], True),
        ({"after_id": "smart"}, ["fast", "gpt-5"], False),
        ({"after_id": "smart", "limit": 1}, ["fast"], True),
        ({"after_id": "gpt-5"}, [], False),
        ({"before_id": "fast", "limit": 2}, ["claude-auto", "smart"], True),
        ({"before_id": "fast", "after_id": "auto", "limit": 1}, ["claude-auto"], True),
        ({"after_id": "gone", "limit": 1}, ["auto"], True),
        ({"before_id": "gone", "limit": 1}, ["auto"], True),
    ],
)
def test_pages_follow_the_ids_named(asked, expected, has_more):
    page = catalog().page(**asked)

    assert (ids(page), page["has_more"]) == (expected, has_more)


def test_an_empty_page_has_no_first_and_last():
    page = catalog().page(before_id="auto")

    assert (page["data"], page["first_id"], page["last_id"]) == ([], None, None)


@pytest.mark.parametrize("name", ["smrt", "claude-*", ""])
def test_what_is_not_listed_is_not_found(name):
    with pytest.raises(ModelNotFound, match="There is no model"):
        catalog().item(name)


def test_an_unknown_name_is_answered_with_near_ones():
    error = unknown_model("smrat", ["smart", "fast", "smarter"])

    assert str(error) == ('There is no model "smrat". Did you mean "smart" or "smarter"?')
    assert error.param == "model"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 100_000, '"' + "x" * 64 + '…"'),
        ("a\nb\x00\u202e", '"a\N{REPLACEMENT CHARACTER}b' + "\N{REPLACEMENT CHARACTER}" * 2 + '"'),
        ("", '""'),
    ],
)
def test_a_long_or_odd_name_is_shown_short_and_on_one_line(name, shown):
    assert str(unknown_model(name, ["smart"])) == (
        f"There is no model {shown}. GET /v1/models lists what there is."
    )
