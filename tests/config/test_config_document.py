from pathlib import Path

import pytest

from server.config.document import dotted, parse, read
from server.errors import ConfigError

FILE = Path("config.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: -0.5", {"a": -0.5}),
        ("a: true", {"a": True}),
        ("a:", {"a": None}),
        ("a: ~", {"a": None}),
        ("a: null", {"a": None}),
        ("a: 'null'", {"a": "null"}),
        ('a: "1"', {"a": "1"}),
        ("a: on", {"a": "on"}),
        ("a: no", {"a": "no"}),
        ("a: 010", {"a": "010"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: 0x_", {"a": "0x_"}),
        ("a: 2026-11-22", {"a": "2026-11-22"}),
        ("a: .inf", {"a": ".inf"}),
        ("a: " + "9" * 5000, {"a": "9" * 5000}),
        ("a: [x, {b: 2}]", {"a": ["x", {"b": 2}]}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("- 1", [1]),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_yaml_means_what_its_core_schema_says(text, value):
    assert parse(text, FILE).value == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "config.yaml:1: is empty"),
        ("# nothing\n", "config.yaml:1: is empty"),
        ("a: 1\na: 2", "config.yaml:2: a: is given twice, first on line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3", "config.yaml:4: a.b: is given twice, first on line 2"),
        ("1: x", "config.yaml:1: has a key that is not text; put it in quotes"),
        ("a: {true: x}", "config.yaml:1: a: has a key that is not text; put it in quotes"),
        ("a:\n  ? [b]\n  : x", "config.yaml:2: a: has a key that is not text; put it in quotes"),
        ("!x a: 1", "config.yaml:1: has a key that is not text; put it in quotes"),
        ("a: 1\n---\nb: 1", "config.yaml:2: holds more than one document (`---`); keep one"),
        ("a:\n\tb: 1", "config.yaml:2: is indented with a tab; use spaces"),
        ("a: 1\nb: !!python/object:os.system x", None),
        ("a: !!int 5", "config.yaml:1: a: has a YAML tag (`!…`), which is not supported"),
        ('a: 1\nb: "\\0"', "config.yaml:2: b: contains a control character"),
        ('a: "\\ud800"', "config.yaml:1: a: contains a control character"),
        ('"\\x1b[1m": 2', "config.yaml:1: contains a control character"),
        ("a: 1\nb: \x00", "config.yaml:2: contains a control character"),
        ('a: 1\nb: "\\UFFFFFFFF"', "config.yaml:2: is not YAML that can be read"),
        ('a: 1\nb: "\\U00110000"', "config.yaml:2: is not YAML that can be read"),
        ("\n" + "[" * 5000, "config.yaml:2: is not YAML that can be read"),
    ],
)
def test_yaml_that_settings_have_no_use_for_is_refused_by_line(text, error):
    with pytest.raises(ConfigError, match="config") as caught:
        parse(text, FILE)

    assert str(caught.value) == (
        error or "config.yaml:2: b: has a YAML tag (`!…`), which is not supported"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2", 2),
        ("a: 1\n\nb: c: d", 3),
        ("a: 'open\n", 2),
        ("a: *nowhere", 1),
        ("a: 1\n b: 2", 2),
        ("a: @x", 1),
    ],
)
def test_a_syntax_error_names_its_line(text, line):
    with pytest.raises(ConfigError, match="is not valid YAML: ") as caught:
        parse(text, FILE)

    assert caught.value.line == line


def test_nesting_beyond_reason_is_refused():
    with pytest.raises(ConfigError, match="is nested too deeply"):
        parse("a: " + "[" * 40 + "]" * 40, FILE)


def test_an_alias_repeats_a_value():
    document = parse("a: &t {x: 1}\nb: *t", FILE)

    assert document.value == {"a": {"x": 1}, "b": {"x": 1}}
    assert document.error(("b",), "…").line == 2


def test_aliases_that_multiply_are_refused():
    """The `billion laughs` file costs no memory to speak of."""
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]

    with pytest.raises(ConfigError, match="too many values"):
        parse("\n".join(["l0: &l0 [x]", *levels]), FILE)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a [*a, *a, *a, *a]"])
def test_an_alias_that_contains_itself_is_refused(text):
    with pytest.raises(ConfigError, match="is nested too deeply"):
        parse(text, FILE)


def test_an_error_takes_the_line_of_the_key_or_of_its_nearest_parent():
    document = parse("a:\n  - b:\n      c: 1\n  -\n    d\n", FILE)

    lines = [
        document.error(path, "…").line
        for path in [("a",), ("a", 0), ("a", 0, "b"), ("a", 0, "b", "c"), ("a", 1), ("a", 0, "z")]
    ]

    assert lines == [1, 2, 2, 3, 5, 2]


def test_a_key_path_is_dotted_and_quotes_what_would_mislead():
    path = ("models", "gpt-5.4", "targets", 0, "model")

    assert dotted(path) == 'models."gpt-5.4".targets[0].model'
    assert dotted(("aliases", "claude-*")) == 'aliases."claude-*"'
    assert dotted(()) == ""


def test_a_file_that_is_not_there_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read: No such file"):
        read(tmp_path / "no.yaml")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")

    with pytest.raises(ConfigError, match=r"config\.yaml:2: is not UTF-8"):
        read(path)


def test_a_file_beyond_reason_is_not_parsed(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("#" * (1 << 20) + "\n")

    with pytest.raises(ConfigError, match="is larger than 1 MiB"):
        read(path)
