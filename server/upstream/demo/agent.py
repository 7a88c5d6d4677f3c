"""A scripted agent: creates the files that a prompt asks for, with the client's own tools.

It keeps nothing between requests. Every turn replays the results since the prompt over the same
plan (look around, write each file, read each back), so that it goes on where it was.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.upstream.demo.schema import example, plain_name
from server.upstream.demo.task import File, files_in

_MOST_CALLS = 8
_PATHS = ("filepath", "path", "absolutepath", "filename", "targetfile", "relativepath", "file")
_CONTENTS = ("content", "contents", "filetext", "newtext", "text", "filecontent", "newcontent")
_COMMANDS = ("command", "commands", "cmd", "script")
_PATCHES = ("input", "patch", "patchtext")
_FINISHERS = frozenset({"attemptcompletion", "submitandexit"})
_SHELL = re.compile(r"bash|shell|terminal|command|exec|^run", re.IGNORECASE)
_LIST = re.compile(r"^(ls|list|listfiles|listdir|listdirectory)$")
_GLOB = re.compile(r"^(glob|findfiles|globsearch)$")
_READ = re.compile(r"^(read|readfiles?|view|viewfile|openfile|cat)$")
_FAILURE = re.compile(
    r"^\s*(?:<\w*error|error\b|failed\b)|\"success\":\s*false|\"error\":\s*\"|permission denied"
    r"|was rejected|has been denied|\bexited with code [1-9]",
    re.IGNORECASE,
)
_NOISE = re.compile(r"<(system-reminder|environment_details)\b.*?</\1>", re.DOTALL)
_WRAPPER = re.compile(r"</?(?:task|user_message|user_input|user_query)\b[^>]*>")
_QUOTED_PROMPT = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_FOLDER = re.compile(
    r"(?:working directory|workspace directory|\bcwd)\b(?:\s+is)?"
    r"\s*[:=(]?\s*[`\"']?(/[^\n<>`\"')]*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the client offers."""

    name: str
    schema: Mapping[str, Any]

    def property_among(self, names: Sequence[str]) -> str | None:
        """Find a property that goes by one of `names`, whatever its spelling."""
        own = {plain_name(name): name for name in self.schema.get("properties") or {}}
        return next((own[name] for name in names if name in own), None)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered."""

    text: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What the agent does next: say something and, unless `tool` is None, call that tool."""

    say: str
    tool: Tool | None = None
    arguments: Any = None
    otherwise: "Step | None" = None  # what to try when the call fails
    file: File | None = None  # the file that this step creates


def spoken(text: str) -> str:
    """Give what a person wrote, without what the client put around it."""
    text = _WRAPPER.sub("", _NOISE.sub("", text)).strip()
    # opencode quotes a prompt that holds blanks, and escapes the quotes inside.
    quoted = _QUOTED_PROMPT.fullmatch(text)
    return quoted[1].replace('\\"', '"') if quoted else text


def has_failed(result: str) -> bool:
    """Guess from a tool's answer whether it failed; not every client says so."""
    return bool(_FAILURE.search(result[:300]))


def next_step(
    asked: str, results: Sequence[ToolResult], tools: Sequence[Tool], context: str, otherwise: str
) -> Step:
    """Decide what to do after `results`; say `otherwise` when no file was asked for."""
    files = files_in(asked)
    plan = list(_plan(files, tools, _folder(context))) if files else []
    steps = len(plan)
    unwritten: list[File] = []
    after_plan = False
    for result in results:
        if not plan:
            after_plan = True
            break
        done = plan.pop(0)
        if result.failed and done.otherwise is not None:
            plan.insert(0, done.otherwise)
        elif result.failed and done.file is not None:
            unwritten.append(done.file)
    if plan and len(results) < _MOST_CALLS:
        return plan[0]
    unwritten += [step.file for step in plan if step.file is not None]
    text = _summary(files, unwritten, results) if steps and results else otherwise
    return Step(text) if after_plan else _finish(text, tools)


def obey(tool: Tool) -> Step:
    """Call `tool` because the client insists, with the least that its schema asks for."""
    return Step("", tool, example(tool.schema))


def _plan(files: Sequence[File], tools: Sequence[Tool], folder: str | None) -> Iterator[Step]:
    shell, writer, patcher = _find_shell(tools), _find_writer(tools), _find_patcher(tools)
    if shell is None and writer is None and patcher is None:
        return
    if look := _look(tools, shell, folder):
        yield look
    for file in files:
        by_shell = _write_by_shell(file, shell) if shell else None
        if writer:
            yield _write(file, writer, folder, by_shell)
        # A patch adds whole lines: it cannot leave out the last line break.
        elif patcher and (by_shell is None or file.content.endswith("\n")):
            yield _write_by_patch(file, patcher, by_shell)
        elif by_shell:
            yield by_shell
    for file in files:
        if back := _read(file, tools, shell, folder):
            yield back


def _look(tools: Sequence[Tool], shell: Tool | None, folder: str | None) -> Step | None:
    say = "I will look at the folder first."
    lister = next((tool for tool in tools if _LIST.match(plain_name(tool.name))), None)
    if lister is None and shell is not None:
        return Step(say, shell, _shell_arguments(shell, "ls", "List the folder"))
    tool = lister or next((tool for tool in tools if _GLOB.match(plain_name(tool.name))), None)
    if tool is None:
        return None
    known = {"pattern": "*", "globpattern": "*", **dict.fromkeys(_PATHS, folder or ".")}
    return Step(say, tool, example(tool.schema, known))


def _write(file: File, writer: Tool, folder: str | None, otherwise: Step | None) -> Step:
    known = dict.fromkeys(_CONTENTS, file.content) | {"command": "create"}
    known |= dict.fromkeys(_PATHS, _path_for(writer, file, folder))
    arguments = example(writer.schema, known)
    return Step(f"Now I will write {file.name}.", writer, arguments, otherwise, file)


def _write_by_shell(file: File, shell: Tool) -> Step:
    parent = file.name.rpartition("/")[0]
    command = f"printf '%s' {shlex.quote(file.content)} > {shlex.quote(file.name)}"
    if parent:
        command = f"mkdir -p {shlex.quote(parent)} && {command}"
    arguments = _shell_arguments(shell, command, f"Create {file.name}")
    return Step(f"I will create {file.name} in the shell.", shell, arguments, file=file)


def _write_by_patch(file: File, patcher: Tool, otherwise: Step | None) -> Step:
    lines = file.content.removesuffix("\n").split("\n")
    added = "".join(f"+{line}\n" for line in lines)
    patch = f"*** Begin Patch\n*** Add File: {file.name}\n{added}*** End Patch\n"
    arguments = example(patcher.schema, dict.fromkeys(_PATCHES, patch))
    return Step(f"I will add {file.name} with a patch.", patcher, arguments, otherwise, file)


def _read(file: File, tools: Sequence[Tool], shell: Tool | None, folder: str | None) -> Step | None:
    say = f"Let me read {file.name} back."
    if tool := next((tool for tool in tools if _READ.match(plain_name(tool.name))), None):
        known = dict.fromkeys(_PATHS, _path_for(tool, file, folder))
        return Step(say, tool, example(tool.schema, known))
    if shell is None:
        return None
    return Step(say, shell, _shell_arguments(shell, f"cat {shlex.quote(file.name)}", "Read it"))


def _finish(text: str, tools: Sequence[Tool]) -> Step:
    """Say `text`, through the client's completion tool where it has one."""
    finisher = next((tool for tool in tools if plain_name(tool.name) in _FINISHERS), None)
    if finisher is None:
        return Step(text)
    known = dict.fromkeys(("result", "summary", "message", "text"), text)
    return Step("", finisher, example(finisher.schema, known))


def _summary(
    files: Sequence[File], unwritten: Sequence[File], results: Sequence[ToolResult]
) -> str:
    if unwritten:
        reason = next((result.text for result in reversed(results) if result.failed), "")
        names = ", ".join(file.name for file in unwritten)
        return f"I could not create {names}: {reason[:300].strip() or 'the tool failed'}"
    names = ", ".join(file.name for file in files)
    return f"Done: {names} created."


def _find_writer(tools: Sequence[Tool]) -> Tool | None:
    def fits(tool: Tool) -> bool:
        needed = {plain_name(name) for name in tool.schema.get("required") or ()}
        edits = needed & {"oldstring", "oldtext", "oldstr", "insertline"}
        both = tool.property_among(_PATHS) and tool.property_among(_CONTENTS)
        return bool(both) and not edits and "notebook" not in tool.name.lower()

    def rank(tool: Tool) -> bool:
        return not re.search("write|create", tool.name, re.IGNORECASE)

    named = [t for t in tools if re.search("write|create|edit|file", t.name, re.IGNORECASE)]
    return min((tool for tool in named if fits(tool)), key=rank, default=None)


def _find_patcher(tools: Sequence[Tool]) -> Tool | None:
    named = (tool for tool in tools if plain_name(tool.name) == "applypatch")
    return next((tool for tool in named if tool.property_among(_PATCHES)), None)


def _find_shell(tools: Sequence[Tool]) -> Tool | None:
    named = (tool for tool in tools if _SHELL.search(tool.name))
    return next((tool for tool in named if tool.property_among(_COMMANDS)), None)


def _shell_arguments(shell: Tool, command: str, why: str) -> Any:
    return example(shell.schema, dict.fromkeys(_COMMANDS, command) | {"description": why})


def _path_for(tool: Tool, file: File, folder: str | None) -> str:
    """Resolve the name against the working folder, where the tool says it wants that."""
    if folder is None or file.name.startswith(("/", "~")) or "absolute" not in str(tool.schema):
        return file.name
    return f"{folder}/{file.name.removeprefix('./')}"


def _folder(context: str) -> str | None:
    found = _FOLDER.search(context)
    return found[1].strip().rstrip("/.") or None if found else None
