"""`gatewayctl presets`: look at each tool's prompt and skills."""

from typing import Annotated, Any, get_args

import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import completed_by, noun
from gatewayctl.output import Table
from gatewayctl.session import Session
from server.config.load import Settings
from server.config.schema import Tool
from server.counts import counted
from server.errors import ModelNotFound, NotFound
from server.presets.load import Preset, load_presets
from server.protocols import tokens
from server.routing.resolve import Routing

app = noun("Look at each tool's prompt and skills.")

_COLUMNS = ("tool", "version", "skills", "tokens", "model", "file")


def _tools(_session: Session) -> list[tuple[str, str]]:
    return [(tool, "a tool") for tool in get_args(Tool)]


ToolName = Annotated[
    str, typer.Argument(help="The tool.", metavar="TOOL", autocompletion=completed_by(_tools))
]


@app.command("list")
def list_presets(ctx: typer.Context) -> None:
    """List the presets of your presets folder."""
    session = Session.of(ctx)
    found = [_as_json(preset) for preset in load_presets(session.settings().presets_path).values()]
    rows = []
    for preset in found:
        enabled = sum(skill["enabled"] for skill in preset["skills"])
        shown = preset | {"skills": f"{enabled}/{len(preset['skills'])}"}
        rows.append([shown[column] for column in _COLUMNS])
    document = {"object": "list", "data": found, "has_more": False}
    session.out.table(document, Table(_COLUMNS, rows, numbers=frozenset({"version", "tokens"})))


@app.command("show")
def show(ctx: typer.Context, tool: ToolName) -> None:
    """Show one preset: its version, its skills, its size."""
    session = Session.of(ctx)
    preset = _as_json(_find(session.settings(), tool))
    skills = ", ".join(
        skill["name"] + ("" if skill["enabled"] else " (off)") for skill in preset["skills"]
    )
    shown = preset | {"skills": skills, "inject_when": f"tools: {preset['inject_when']['tools']}"}
    rows = list(shown.items())
    session.out.table(preset, Table(("field", "value"), rows))


@app.command("check")
def check(ctx: typer.Context) -> None:
    """Check every preset file, and that the models they name exist."""
    session = Session.of(ctx)
    settings = session.settings()
    presets = load_presets(settings.presets_path)
    routing = Routing(settings.config)
    unknown = [tool for tool, preset in presets.items() if not _names_a_model(preset, routing)]
    document = {"object": "presets_check", "ok": not unknown, "unknown_models": unknown}
    session.out.value(document, "incomplete" if unknown else "ok")
    if unknown:
        raise CommandError(
            f"The preset of {', '.join(unknown)} names a model that the config does not have.",
            status=ExitStatus.CHECK_FAILED,
            code="check_failed",
            hint="`gatewayctl models list` shows the models.",
        )


@app.command("render")
def render(ctx: typer.Context, tool: ToolName) -> None:
    """Print the exact text that a tool's requests are given."""
    session = Session.of(ctx)
    preset = _find(session.settings(), tool)
    text = preset.text()
    size = tokens.estimate_text(text)
    if session.out.as_json:
        document = {"object": "preset_text", "tool": tool, "tokens": size, "text": text}
        session.out.document(document)
        return
    session.out.text(text)
    session.out.note(f"About {counted(size, 'token')}, version {preset.version}.")


def _names_a_model(preset: Preset, routing: Routing) -> bool:
    """Whether what `auto` means for the tool is something that the config has."""
    try:
        routing.resolve(
            "auto",
            tool=preset.tool,
            preset_model=preset.model,
            input_tokens_estimate=int,
        )
    except ModelNotFound:
        return preset.model is None
    return True


def _find(settings: Settings, tool: str) -> Preset:
    presets = load_presets(settings.presets_path)
    if tool not in presets:
        known = ", ".join(presets) or "none"
        raise NotFound(f"There is no preset for {tool!r}; there are: {known}.")
    return presets[tool]


def _as_json(preset: Preset) -> dict[str, Any]:
    return {
        "tool": preset.tool,
        "object": "preset",
        "version": preset.version,
        "model": preset.model,
        "inject_when": {"tools": preset.inject_when.tools},
        "skills": [{"name": skill.name, "enabled": skill.enabled} for skill in preset.skills],
        "tokens": tokens.estimate_text(preset.text()),
        "file": str(preset.source),
    }
