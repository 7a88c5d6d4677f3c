import pytest

from server.config.references import resolve_reference
from server.errors import ConfigError
from server.secret import Secret

ENVIRON = {"KEY": "sk-fake", "EMPTY": "", "DIR": "keys"}


def _revealed(value, environ, folder):
    reference = None if value is None else Secret(value)
    found = resolve_reference(reference, environ=environ, folder=folder)
    return found and found.reveal()


@pytest.mark.parametrize(
    ("value", "resolved"),
    [
        (None, None),
        ("", None),
        ("sk-literal-fake", "sk-literal-fake"),
        ("${KEY}", "sk-fake"),
        ("Bearer ${KEY}", "Bearer sk-fake"),
        ("${KEY}/${KEY}", "sk-fake/sk-fake"),
        ("${EMPTY}", None),
        ("${MISSING}", None),
        ("Bearer ${MISSING}", None),
        ("${KEY}${MISSING}", None),
        ("$KEY", "$KEY"),
        ("file:missing.txt", None),
    ],
)
def test_a_reference_is_looked_up_or_resolves_to_nothing(tmp_path, value, resolved):
    assert _revealed(value, ENVIRON, tmp_path) == resolved


@pytest.mark.parametrize(
    ("content", "resolved"),
    [
        (b"sk-fake", "sk-fake"),
        (b"sk-fake\n", "sk-fake"),
        (b"sk-fake\r\n", "sk-fake"),
        (b" sk ", " sk "),
        (b"${KEY}\n", "${KEY}"),
        (b"\n", None),
        (b"", None),
    ],
)
def test_a_file_reference_gives_the_file_without_its_last_line_break(tmp_path, content, resolved):
    (tmp_path / "key.txt").write_bytes(content)

    assert _revealed("file:key.txt", {}, tmp_path) == resolved


def test_a_file_reference_may_be_absolute_or_name_a_folder_by_variable(tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "a").write_text("sk-fake\n")

    for value in (f"file:{tmp_path}/keys/a", "file:${DIR}/a", "file:keys/a"):
        assert _revealed(value, ENVIRON, tmp_path) == "sk-fake"


UNFIT = "has a line break, a control character or one beyond ASCII"


@pytest.mark.parametrize(
    "content", ["two\nlines\n", "a\x00b", "sk\n\n", "\ufeffsk-fake\n", "sk\u2013fake"]
)
def test_a_secret_that_no_header_can_carry_is_refused_without_showing_it(tmp_path, content):
    (tmp_path / "key.txt").write_text(content, encoding="utf-8")

    with pytest.raises(ConfigError, match=rf"^file:key\.txt {UNFIT}$"):
        _revealed("file:key.txt", {}, tmp_path)


@pytest.mark.parametrize("literal", ["sk-fake\r\nx: y", "sk\u2013fake"])
def test_a_literal_that_no_header_can_carry_is_not_shown(tmp_path, literal):
    with pytest.raises(ConfigError, match=rf"^a secret {UNFIT}$"):
        _revealed(literal, {}, tmp_path)


def test_a_file_that_cannot_be_read_is_an_error_and_not_a_missing_key(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="folder: cannot be read: Is a directory"):
        _revealed("file:folder", {}, tmp_path)
    with pytest.raises(ConfigError, match="binary: is not UTF-8 text"):
        _revealed("file:binary", {}, tmp_path)
