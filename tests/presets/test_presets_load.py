import os
import shutil

import pytest

from server.errors import ConfigError
from server.presets.load import BUILTIN, load_preset, load_presets

MINIMAL = "tool: cline\nversion: 3\nsystem: Be kind.\n"


def written(folder, text, name="cline.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_minimal_file_is_its_system_text(tmp_path):
    preset = load_preset(written(tmp_path, MINIMAL))

    assert (preset.tool, preset.version, preset.skills, preset.model) == ("cline", 3, (), None)
    assert preset.inject_when.tools == "any"
    assert preset.source == tmp_path / "cline.yaml"
    assert preset.text() == "Be kind."


def test_text_is_the_system_prompt_and_the_enabled_skills_in_order(tmp_path):
    (tmp_path / "skills").mkdir()
    written(tmp_path / "skills", b"\xef\xbb\xbf\r\nFrom a file.\r\nTwo lines.\r\n", "house.md")
    path = written(
        tmp_path,
        "tool: cline\nversion: 1\nsystem: |\n  Hello.\n\n"
        "skills:\n"
        "  - {name: b, text: Second letter.}\n"
        "  - {name: off, enabled: false, text: Never.}\n"
        "  - {name: a, file: skills/house.md}\n",
    )

    assert load_preset(path).text() == (
        "Hello.\n\n## b\nSecond letter.\n\n## a\nFrom a file.\nTwo lines."
    )


def test_nothing_to_say_gives_empty_text(tmp_path):
    off = 'tool: cline\nversion: 1\nsystem: "  "\nskills: [{name: a, enabled: false, text: b}]\n'

    assert load_preset(written(tmp_path, off)).text() == ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cline.yaml:1: is empty"),
        ("# only a comment\n", "is empty"),
        ("tool: cline\nversion: [\n", r"cline.yaml:3: is not valid YAML"),
        (b"tool: cline\nversion: 1\nsystem: \xff\n", r"cline.yaml:3: is not UTF-8"),
        ("tool: vim\nversion: 1\n", r"cline.yaml:1: tool: must be `claudecode` or"),
        ("tool: cline\n", r"cline.yaml:1: the key `version` is missing"),
        ("tool: cline\nversion: '3'\n", r"cline.yaml:2: version: must be a whole number"),
        ("tool: cline\nversion: 1\nsistem: a\n", r"cline.yaml:3: sistem: unknown key.*`system`"),
        ("tool: cline\nversion: 1\nversion: 2\n", r"cline.yaml:3: version: is given twice"),
        (MINIMAL + 'model: ""\n', r"cline.yaml:4: model: must be text, not empty"),
        (MINIMAL + "inject_when: {tools: never}\n", r"cline.yaml:4: inject_when.tools: must be"),
        (MINIMAL + "skills:\n  - {name: a, txt: b}\n", r"cline.yaml:5: skills\[0\].txt: unknown"),
        (MINIMAL + "skills:\n  - {name: a}\n", r"cline.yaml:5: skills\[0\]: needs either"),
        (MINIMAL + "skills:\n  - {name: a, text: b, file: c}\n", r":5: skills\[0\]: needs either"),
        (MINIMAL + "skills:\n  - {name: a, text: ' '}\n", r":5: skills\[0\].text: is empty"),
        (MINIMAL + 'skills:\n  - {name: "a\\nb", text: c}\n', r":5: skills\[0\].name: must be"),
        (
            MINIMAL + "skills:\n  - {name: a, text: b}\n  - {name: a, text: c}\n",
            r"cline.yaml:6: skills\[1\].name: is the name of another skill",
        ),
        (
            MINIMAL + "skills:\n  - name: a\n    enabled: 1\n    text: b\n",
            r"cline.yaml:6: skills\[0\].enabled: must be true or false",
        ),
        (MINIMAL + "skills:\n  - {name: a, file: gone.md}\n", r":5: skills\[0\].file: there is no"),
        (MINIMAL + 'model: "\\ud800"\n', r"cline.yaml:4: model: contains a control"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_preset(written(tmp_path, text))


@pytest.mark.parametrize("name", ["../secret.md", "skills/../../secret.md", "{root}/secret.md"])
def test_a_skill_file_outside_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "presets"
    folder.mkdir()
    (tmp_path / "secret.md").write_text("secret")
    name = name.format(root=tmp_path)
    path = written(folder, MINIMAL + f"skills: [{{name: a, file: {name}}}]\n")

    with pytest.raises(ConfigError, match=r"cline.yaml:4: skills\[0\].file: lies outside"):
        load_preset(path)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (tmp_path / "secret.md").write_text("secret")
    (folder / "skill.md").symlink_to(tmp_path / "secret.md")
    path = written(folder, MINIMAL + "skills: [{name: a, file: skill.md}]\n")

    with pytest.raises(ConfigError, match="lies outside the presets folder"):
        load_preset(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"cline.yaml:4: skills\[0\].file: is empty"),
        (b"one\ntwo \xff\n", r"skill.md:2: is not UTF-8"),
    ],
)
def test_a_skill_file_that_cannot_be_used_is_refused(tmp_path, content, complaint):
    written(tmp_path, content, "skill.md")
    path = written(tmp_path, MINIMAL + "skills: [{name: a, file: skill.md}]\n")

    with pytest.raises(ConfigError, match=complaint):
        load_preset(path)


def test_a_link_that_leads_back_to_itself_is_no_skill_file(tmp_path):
    (tmp_path / "skill.md").symlink_to("skill.md")
    path = written(tmp_path, MINIMAL + "skills: [{name: a, file: skill.md}]\n")

    with pytest.raises(ConfigError, match=r"there is no file 'skill\.md' in the presets folder"):
        load_preset(path)


@pytest.mark.parametrize("name", ["long" * 80, "deep/" * 900 + "skill.md"])
def test_a_skill_file_with_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    path = written(tmp_path, MINIMAL + f"skills: [{{name: a, file: {name}}}]\n")

    with pytest.raises(ConfigError, match=r"skills\[0\].file: cannot be read: File name too long"):
        load_preset(path)


def test_a_folder_gives_one_preset_for_each_tool_that_has_a_file(tmp_path):
    written(tmp_path, MINIMAL)
    written(tmp_path, MINIMAL.replace("cline", "cursor"), "any-name.yaml")
    written(tmp_path, "not: [a preset", "notes.txt")
    written(tmp_path, "not: [a preset", ".#cline.yaml")

    assert set(load_presets(tmp_path)) == {"cline", "cursor"}


def test_two_files_for_one_tool_are_refused(tmp_path):
    written(tmp_path, MINIMAL)
    written(tmp_path, "# mine\n" + MINIMAL, "mine.yaml")

    with pytest.raises(ConfigError, match=r"mine.yaml:2: tool: cline.yaml is for cline already"):
        load_presets(tmp_path)


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(ConfigError, match="no such folder; `gatewayctl init` creates it"):
        load_presets(tmp_path / "presets")


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path):
    with pytest.raises(ConfigError, match="cannot be listed: File name too long"):
        load_presets(tmp_path / ("long" * 80))


def test_a_pipe_among_the_presets_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "cline.yaml")

    with pytest.raises(ConfigError, match=r"cline\.yaml: is not a regular file"):
        load_presets(tmp_path)


def test_the_built_in_presets_are_whole_and_concise():
    """Every request pays for them: useful, but no longer than a page."""
    presets = load_presets(BUILTIN)

    assert set(presets) == {"claudecode", "cline", "cursor", "roocode", "codex"}
    for preset in presets.values():
        assert preset.system
        assert 3 <= len(preset.skills) <= 5
        assert all(skill.enabled for skill in preset.skills)
        assert 1400 < len(preset.text()) < 2800
        assert preset.text().isascii()


def test_no_sentence_stands_in_two_built_in_skills():
    skills = [skill for preset in load_presets(BUILTIN).values() for skill in preset.skills]
    sentences = [one for skill in skills for one in skill.text.replace("\n", " ").split(". ")]

    assert len(set(sentences)) == len(sentences)


def test_a_copied_folder_reads_the_same(tmp_path):
    copied = tmp_path / "presets"
    shutil.copytree(BUILTIN, copied)

    texts = {tool: preset.text() for tool, preset in load_presets(copied).items()}

    assert texts == {tool: preset.text() for tool, preset in load_presets(BUILTIN).items()}
