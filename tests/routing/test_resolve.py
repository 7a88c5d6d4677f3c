import msgspec
import pytest

from server.config.schema import Config
from server.errors import ModelNotFound
from server.routing.resolve import Routing


def model(*targets):
    return {"targets": [{"upstream": up, "model": name} for up, name in targets], "free": True}


UPSTREAMS = {
    "claude": {"protocol": "anthropic", "base_url": "https://a.example"},
    "gpt": {"protocol": "openai", "base_url": "https://o.example"},
    "demo": {"protocol": "demo"},
}
MODELS = {
    "smart": model(("demo", "s")),
    "fast": model(("demo", "f")),
    "cheap": model(("demo", "c")),
    "opus": model(("claude", "claude-opus")),
    "mini": model(("gpt", "gpt-mini")),
    "both": model(("gpt", "g1"), ("claude", "c1")),
}


def routing(**keys):
    base = {"upstreams": UPSTREAMS, "models": MODELS, "auto": {"default": "smart"}}
    return Routing(msgspec.convert({**base, **keys}, Config))


def never():
    raise AssertionError("the estimate was asked for")


def served(rules, name, *, tool=None, preset_model=None, estimate=never):
    return rules.resolve(name, tool=tool, preset_model=preset_model, input_tokens_estimate=estimate)


@pytest.mark.parametrize("name", MODELS)
def test_a_logical_name_serves_itself(name):
    assert served(routing(), name) == name


def test_a_logical_name_wins_over_aliases_and_over_claude_names():
    models = {**MODELS, "claude-x": model(("demo", "x"))}
    rules = routing(models=models, aliases={"claude-*": "fast", "claude-x": "cheap"})

    assert served(rules, "claude-x", tool="cline") == "claude-x"


@pytest.mark.parametrize("name", ["auto", "claude-auto"])
def test_auto_wins_over_aliases(name):
    assert served(routing(aliases={"*": "fast", name: "cheap"}), name) == "smart"


def test_a_plain_alias_wins_over_a_glob_above_it():
    assert served(routing(aliases={"gpt-*": "fast", "gpt-5": "cheap"}), "gpt-5") == "cheap"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("claude-haiku-4-5", "fast"), ("claude-opus-4", "cheap"), ("o3", "smart"), ("ob", "fast")],
)
def test_globs_are_tried_in_file_order(name, expected):
    aliases = {"claude-*haiku*": "fast", "claude-*": "cheap", "o[0-9]": "smart", "o?": "fast"}

    assert served(routing(aliases=aliases), name) == expected


@pytest.mark.parametrize(
    ("glob", "fits", "fails"),
    [
        ("a.c*", "a.cd", "abcd"),
        ("(a|b)+*", "(a|b)+", "ab"),
        ("a^$*", "a^$x", "a"),
        ("*|smart", "x|smart", "smartx"),
        ("Claude-*", "Claude-1", "claude-1"),
        ("[!a]x", "bx", "ax"),
        ("a\\d*", "a\\d1", "a1"),
    ],
)
def test_only_the_glob_signs_mean_something(glob, fits, fails):
    rules = routing(aliases={glob: "fast"})

    assert served(rules, fits) == "fast"
    with pytest.raises(ModelNotFound):
        served(rules, fails)


def test_a_glob_fits_the_whole_name_and_lines_do_not_end_it():
    rules = routing(aliases={"a*b": "fast"})

    assert served(rules, "a\n\nb") == "fast"
    with pytest.raises(ModelNotFound):
        served(rules, "a b\n")


@pytest.mark.parametrize("name", ["claude-opus-9", "claude-"])
def test_on_a_tool_route_any_claude_name_counts_as_auto(name):
    assert served(routing(), name, tool="roocode") == "smart"
    assert served(routing(aliases={"claude-*": "fast"}), name, tool="roocode") == "fast"
    with pytest.raises(ModelNotFound):
        served(routing(), name)


def test_auto_is_what_the_preset_says_before_any_rule():
    rules = routing(
        auto={"default": "smart", "rules": [{"when": {"tool": "cline"}, "use": "cheap"}]},
        aliases={"quick": "fast"},
    )

    assert served(rules, "auto", tool="cline", preset_model="opus") == "opus"
    assert served(rules, "claude-x", tool="cline", preset_model="quick") == "fast"
    assert served(rules, "auto", tool="cline", preset_model="auto") == "cheap"
    assert served(rules, "mini", tool="cline", preset_model="opus") == "mini"


def test_a_preset_that_names_an_unknown_model_is_not_found_under_that_name():
    with pytest.raises(ModelNotFound, match=r'There is no model "smrt"\. Did you mean "smart"'):
        served(routing(), "auto", tool="cline", preset_model="smrt")


RULES = {
    "default": "smart",
    "rules": [
        {"when": {"tool": "cursor"}, "use": "cheap"},
        {"when": {"tool": "cline", "max_input_tokens": 4000}, "use": "fast"},
        {"when": {"max_input_tokens": 9000}, "use": "both"},
    ],
}


@pytest.mark.parametrize(
    ("tool", "tokens", "expected"),
    [
        ("cline", 4000, "fast"),
        ("cline", 4001, "both"),
        ("cline", 9001, "smart"),
        ("roocode", 100, "both"),
        (None, 9000, "both"),
        (None, 9001, "smart"),
    ],
)
def test_the_first_rule_that_holds_wins(tool, tokens, expected):
    asked = []

    assert (
        served(routing(auto=RULES), "auto", tool=tool, estimate=lambda: asked.append(1) or tokens)
        == expected
    )
    assert asked == [1]


def test_a_rule_without_a_token_limit_needs_no_estimate():
    assert served(routing(auto=RULES), "auto", tool="cursor") == "cheap"


def test_a_rule_with_an_empty_condition_always_holds():
    assert served(routing(auto={"rules": [{"when": {}, "use": "fast"}]}), "auto") == "fast"


def test_auto_without_a_default_is_not_found_and_says_why():
    with pytest.raises(ModelNotFound, match='Nothing serves "auto": this gateway has no `auto'):
        served(routing(auto={}), "auto")


def test_an_unknown_name_is_not_found_with_near_ones():
    aliases = {"smarter": "smart", "smart-*": "smart"}

    with pytest.raises(ModelNotFound, match=r'"smartr"\. Did you mean "smarter" or "smart"'):
        served(routing(aliases=aliases), "smartr")


def test_a_thousand_aliases_keep_their_order():
    aliases = {f"team-{n}-*": "fast" if n % 2 else "cheap" for n in range(1000)}
    rules = routing(aliases=aliases)

    assert [served(rules, f"team-{n}-x") for n in (0, 1, 998, 999)] == [
        "cheap", "fast", "cheap", "fast",
    ]  # fmt: skip
    with pytest.raises(ModelNotFound):
        served(rules, "team-1000-x")
