import os
import stat

import pytest

from server.config.files import make_private_folder, write_private


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "config.yaml"

    write_private(path, "a: é\n")

    assert path.read_bytes() == "a: é\n".encode()
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_made_for_their_owner_alone(tmp_path):
    path = tmp_path / "a" / "b" / "config.yaml"
    before = mode(tmp_path)

    write_private(path, "")

    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)
    assert mode(tmp_path) == before


def test_an_existing_folder_keeps_its_mode(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)

    make_private_folder(tmp_path / "open")

    assert mode(tmp_path / "open") == 0o755


def test_a_readable_file_is_replaced_by_a_private_one(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("old")
    path.chmod(0o644)

    write_private(path, "new")

    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("old")

    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        write_private(path, "new \ud800")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "config.yaml"
    path.mkdir()

    with pytest.raises(IsADirectoryError, match=r"config\.yaml'$") as refused:
        write_private(path, "a: 1\n")

    assert refused.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_in_a_folder_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    tmp_path.chmod(0o500)

    with pytest.raises(PermissionError, match=r"config\.yaml'$"):
        write_private(path, "a: 1\n")
