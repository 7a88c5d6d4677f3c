"""Read preset files: a tool's system prompt and its stack of skills."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from server.config import document
from server.config.convert import convert
from server.config.document import Document, KeyPath
from server.config.schema import Count, Section, Text, Tool
from server.errors import ConfigError

BUILTIN = Path(__file__).with_name("builtin")

SkillName = Annotated[
    str, Meta(pattern=r"^\S[^\n]{0,99}\Z", description="a name of one line, at most 100 characters")
]


class InjectWhen(Section, frozen=True):
    """Which requests get the preset: any, or only those that offer tools."""

    tools: Literal["any", "present"] = "any"


@dataclass(frozen=True, slots=True)
class Skill:
    """One named piece of a preset, switched on or off."""

    name: str
    enabled: bool
    text: str


@dataclass(frozen=True, slots=True)
class Preset:
    """What every request of one tool is given, as its file says."""

    tool: str
    version: int
    system: str
    skills: tuple[Skill, ...]
    inject_when: InjectWhen
    model: str | None
    source: Path

    def text(self) -> str:
        """Give the block that is injected: the system prompt, then the enabled skills in order.

        The same file gives the same text on every machine and day, or prompt caches would miss.
        Empty when there is nothing to inject.
        """
        skills = (f"## {skill.name}\n{skill.text}" for skill in self.skills if skill.enabled)
        return "\n\n".join(part for part in (self.system, *skills) if part)


Presets: TypeAlias = Mapping[str, Preset]


def load_presets(folder: Path) -> Presets:
    """Read every `*.yaml` of `folder`; a tool without a file simply has no preset.

    Raises:
        ConfigError: the folder is missing or cannot be listed, a file cannot be used, or two are
            for one tool.
    """
    presets: dict[str, Preset] = {}
    for path in _files(folder):
        source = document.read(path)
        preset = _preset(source)
        if preset.tool in presets:
            other = presets[preset.tool].source.name
            raise source.error(("tool",), f"{other} is for {preset.tool} already")
        presets[preset.tool] = preset
    return MappingProxyType(presets)


def load_preset(path: Path) -> Preset:
    """Read one preset file and the skill files that it names, which lie beside or below it.

    Raises:
        ConfigError: with the file, the key path and the line of what is wrong.
    """
    return _preset(document.read(path))


def _files(folder: Path) -> list[Path]:
    # Not `glob`, for which a folder that it may not list is an empty one: all would be gone.
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ConfigError("no such folder; `gatewayctl init` creates it", file=folder) from exc
    except OSError as exc:
        raise ConfigError(f"cannot be listed: {exc.strerror}", file=folder) from exc
    return [path for path in paths if path.match("[!.]*.yaml")]


class _SkillEntry(Section, frozen=True):
    name: SkillName
    enabled: bool = True
    text: str | None = None
    file: str | None = None


class _File(Section, frozen=True):
    tool: Tool
    version: Count
    system: str = ""
    skills: tuple[_SkillEntry, ...] = ()
    inject_when: InjectWhen = InjectWhen()
    model: Text | None = None


def _preset(source: Document) -> Preset:
    raw = convert(source, _File)
    return Preset(
        tool=raw.tool,
        version=raw.version,
        system=_tidy(raw.system),
        skills=_skills(source, raw.skills),
        inject_when=raw.inject_when,
        model=raw.model,
        source=source.file,
    )


def _skills(source: Document, entries: tuple[_SkillEntry, ...]) -> tuple[Skill, ...]:
    skills: dict[str, Skill] = {}
    for index, entry in enumerate(entries):
        here: KeyPath = ("skills", index)
        if entry.name in skills:
            raise source.error((*here, "name"), "is the name of another skill above")
        skills[entry.name] = Skill(entry.name, entry.enabled, _skill_text(source, here, entry))
    return tuple(skills.values())


def _skill_text(source: Document, here: KeyPath, entry: _SkillEntry) -> str:
    if (entry.text is None) == (entry.file is None):
        raise source.error(here, "needs either `text` or `file`")
    if entry.file is None:
        here, text = (*here, "text"), _tidy(entry.text or "")
    else:
        here = (*here, "file")
        text = _tidy(_read_skill(source, here, entry.file))
    if not text:
        raise source.error(here, "is empty; `enabled: false` switches a skill off")
    return text


def _read_skill(source: Document, here: KeyPath, name: str) -> str:
    # Not `Path.resolve`, which has an error of its own for links that lead in a circle.
    folder = Path(os.path.realpath(source.file.parent))
    path = folder / name
    if ".." in Path(name).parts or not Path(os.path.realpath(path)).is_relative_to(folder):
        raise source.error(here, "lies outside the presets folder")
    try:
        if not path.is_file():
            raise source.error(here, f"there is no file {name!r} in the presets folder")
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as exc:
        raise source.error(here, f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError("is not UTF-8", file=path, line=line) from exc


def _tidy(text: str) -> str:
    """Make the text the same whatever the editor's line ends and blank edges."""
    return text.replace("\r\n", "\n").strip()
