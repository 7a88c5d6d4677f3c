import os

import pytest

from server.errors import ConfigError
from server.presets.watch import watch_presets

FIRST = "tool: cline\nversion: 1\nsystem: one\nskills: [{name: a, file: a.md}]\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.md").write_text("skill")
    (tmp_path / "cline.yaml").write_text(FIRST)
    return tmp_path


def write(path, text, *, mtime_s):
    path.write_text(text)
    os.utime(path, (mtime_s, mtime_s))


def settled(watcher, *, start):
    assert watcher.poll(start) is None
    return watcher.poll(start + 0.4)


def test_untouched_files_give_nothing(folder):
    watcher = watch_presets(folder)

    assert [watcher.poll(at) for at in (0.0, 1.0, 2.0)] == [None, None, None]


def test_a_change_counts_once_it_stood_still_for_300_ms(folder):
    watcher = watch_presets(folder)
    write(folder / "cline.yaml", FIRST.replace("one", "two"), mtime_s=1000)

    assert watcher.poll(10.0) is None
    assert watcher.poll(10.2) is None
    presets = watcher.poll(10.4)

    assert presets["cline"].system == "two"
    assert watcher.poll(11.0) is None


def test_a_file_that_is_still_being_written_is_waited_for(folder):
    watcher = watch_presets(folder)
    write(folder / "cline.yaml", "tool: cli", mtime_s=1000)
    assert watcher.poll(10.0) is None
    write(folder / "cline.yaml", FIRST.replace("one", "two"), mtime_s=1001)
    assert watcher.poll(10.25) is None
    assert watcher.poll(10.5) is None

    assert watcher.poll(10.6)["cline"].system == "two"


def test_the_same_size_with_another_mtime_is_a_change(folder):
    watcher = watch_presets(folder)
    write(folder / "cline.yaml", FIRST.replace("one", "two"), mtime_s=1000)
    assert settled(watcher, start=10.0)["cline"].system == "two"
    write(folder / "cline.yaml", FIRST.replace("one", "six"), mtime_s=1001)

    assert settled(watcher, start=20.0)["cline"].system == "six"


def test_a_changed_skill_file_is_a_change(folder):
    watcher = watch_presets(folder)
    write(folder / "a.md", "new skill", mtime_s=1000)

    assert settled(watcher, start=10.0)["cline"].skills[0].text == "new skill"


def test_an_emptied_file_is_an_error_that_is_reported_once(folder):
    watcher = watch_presets(folder)
    write(folder / "cline.yaml", "", mtime_s=1000)

    error = settled(watcher, start=10.0)

    assert isinstance(error, ConfigError)
    assert error.message == "is empty"
    assert [watcher.poll(at) for at in (11.0, 12.0)] == [None, None]


def test_an_emptied_skill_file_is_an_error(folder):
    watcher = watch_presets(folder)
    write(folder / "a.md", "", mtime_s=1000)

    assert isinstance(settled(watcher, start=10.0), ConfigError)


def test_one_broken_file_keeps_every_other_change_out(folder):
    watcher = watch_presets(folder)
    write(folder / "cline.yaml", FIRST.replace("one", "two"), mtime_s=1000)
    write(folder / "cursor.yaml", "tool: cursor\nversion: x\n", mtime_s=1000)

    assert settled(watcher, start=10.0).key == "version"


def test_putting_a_broken_file_right_gives_the_presets(folder):
    watcher = watch_presets(folder)
    os.utime(folder / "cline.yaml", (1000, 1000))
    settled(watcher, start=0.0)
    write(folder / "cline.yaml", "", mtime_s=1001)
    settled(watcher, start=10.0)
    write(folder / "cline.yaml", FIRST, mtime_s=1000)

    assert settled(watcher, start=20.0)["cline"].system == "one"


def test_a_change_taken_back_before_it_settled_is_none(folder):
    watcher = watch_presets(folder)
    os.utime(folder / "cline.yaml", (1000, 1000))
    settled(watcher, start=0.0)
    write(folder / "cline.yaml", "", mtime_s=1001)
    assert watcher.poll(10.0) is None
    write(folder / "cline.yaml", FIRST, mtime_s=1000)

    assert [watcher.poll(at) for at in (10.2, 10.6, 11.0)] == [None, None, None]


def test_a_removed_file_takes_its_preset_away(folder):
    watcher = watch_presets(folder)
    (folder / "cline.yaml").unlink()

    assert dict(settled(watcher, start=10.0)) == {}


def test_a_removed_folder_is_an_error(folder):
    watcher = watch_presets(folder)
    for path in list(folder.iterdir()):
        path.unlink()
    folder.rmdir()

    assert "no such folder" in str(settled(watcher, start=10.0))


def test_a_broken_link_and_an_editors_lock_are_passed_over(folder):
    watcher = watch_presets(folder)
    (folder / "gone.md").symlink_to(folder / "nowhere.md")
    (folder / ".#cline.yaml").write_text("")

    assert [watcher.poll(at) for at in (10.0, 10.4, 11.0)] == [None, None, None]


def test_a_folder_that_cannot_be_looked_into_ends_no_watch(folder):
    """A folder deeper than paths may be long stands for any failure of the file system."""
    watcher, levels = watch_presets(folder), ["deep" * 60] * 20
    here = os.open(folder, os.O_RDONLY)
    for level in levels:
        os.mkdir(level, dir_fd=here)
        below = os.open(level, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    write(folder / "cline.yaml", FIRST.replace("one", "two"), mtime_s=1000)

    presets = settled(watcher, start=10.0)

    assert presets["cline"].system == "two"
