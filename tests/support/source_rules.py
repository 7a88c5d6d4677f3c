"""What a walk over the syntax tree can hold of the house's rules.

Each rule gives one line for what it finds, "place: what is wrong". The tables that the rules
hold the code to stand in `test_architecture.py`.
"""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

OURS = frozenset({"gatewayctl", "server"})

# What reaches beyond its arguments: files, the network, the clock, chance, other threads.
IMPURE = frozenset(
    {"asyncio", "fcntl", "glob", "io", "logging", "multiprocessing", "os", "pathlib", "random"}
    | {"secrets", "select", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess"}
    | {"tempfile", "threading", "time", "urllib"}
)

_BROAD = frozenset({"Exception", "BaseException"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LATER = (*_FUNCTIONS, ast.ClassDef, ast.Lambda)
_DISPLAYS = (ast.Dict, ast.DictComp, ast.List, ast.ListComp, ast.Set, ast.SetComp)
_PLAIN = frozenset({"dict", "list", "set"})
_MUTABLE = _PLAIN | frozenset(
    {"Counter", "DatabaseProxy", "Event", "Lock", "OrderedDict", "Queue", "bytearray", "count"}
    | {"cycle", "defaultdict", "deque", "iter"}
)
_MUTATORS = frozenset(
    {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove"}
    | {"setdefault", "update"}
)


@dataclass(frozen=True)
class Import:
    """One name that a module imports, in full; `is_late` where the import is not run at once."""

    name: str
    line: int
    is_late: bool


@dataclass(frozen=True)
class Source:
    """A module: its dotted name and its text."""

    module: str
    text: str

    @classmethod
    def read(cls, path: Path, root: Path):
        parts = path.relative_to(root).with_suffix("").parts
        return cls(".".join(parts).removesuffix(".__init__"), path.read_text())

    @cached_property
    def tree(self):
        return ast.parse(self.text)

    def at(self, line: int, message: str) -> str:
        return f"{self.module}:{line}: {message}"

    def imports(self) -> Iterator[Import]:
        """Find the imports wherever they stand; `from a import b` is given as `a.b`."""
        for node, is_late in _with_lateness(self.tree, is_late=False):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node.lineno, is_late)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    yield Import(f"{node.module}.{alias.name}", node.lineno, is_late)


def _with_lateness(node: ast.AST, *, is_late: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        late = is_late or is_typing or isinstance(child, _FUNCTIONS)
        yield child, late
        yield from _with_lateness(child, is_late=late)


def room_of(name: str, rooms: Collection[str]) -> str | None:
    """Give the narrowest of `rooms` that `name` is in."""
    around = [room for room in rooms if is_in(name, [room])]
    return max(around, key=len, default=None)


def is_in(name: str, places: Collection[str]) -> bool:
    """Tell whether `name` is one of the modules or packages `places`, or inside one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def imports_beyond(house: Mapping[str, Collection[str]], source: Source) -> Iterator[str]:
    """Our modules may only import what the row of their room in `house` names."""
    own = room_of(source.module, house)
    if own is None and source.module not in OURS:
        yield source.at(1, "stands in no room of the table")
    for each in source.imports():
        if each.name.partition(".")[0] not in OURS:
            continue
        room = room_of(each.name, house)
        if room is None or (room != own and room not in house.get(own, ())):
            yield source.at(each.line, f"{own} may not import {each.name}")


def foreign_imports_beyond(fences: Mapping[str, Collection[str]], source: Source) -> Iterator[str]:
    """A third party may only be imported in the places that `fences` names for it."""
    for each in source.imports():
        package = each.name.partition(".")[0]
        if package in OURS or package in sys.stdlib_module_names:
            continue
        if not is_in(source.module, fences.get(package, ())):
            yield source.at(each.line, f"{package} may not be imported here")


def imports_too_early(slow: Collection[str], source: Source) -> Iterator[str]:
    """What is slow to import is imported inside the function that needs it."""
    for each in source.imports():
        if is_in(each.name, slow) and not each.is_late:
            yield source.at(each.line, f"{each.name} may only be imported inside a function")


def impure_imports(source: Source) -> Iterator[str]:
    """A pure module imports nothing that reaches beyond its arguments."""
    for each in source.imports():
        if each.name.partition(".")[0] in IMPURE and not each.name.startswith("urllib.parse"):
            yield source.at(each.line, f"a pure module may not import {each.name}")


def relative_imports(source: Source) -> Iterator[str]:
    """Imports are absolute."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield source.at(node.lineno, "the import is relative")


def broad_excepts(source: Source) -> Iterator[str]:
    """No handler and no `suppress` takes whatever comes; cancellation must pass."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = ast.Tuple(node.args)
        else:
            continue
        if caught is None or not _BROAD.isdisjoint(_names(caught)):
            yield source.at(node.lineno, "catches whatever comes")


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def prints(source: Source) -> Iterator[str]:
    """A server writes to its log."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield source.at(node.lineno, "prints")


def long_modules(limit: int, source: Source) -> Iterator[str]:
    """A module has fewer than `limit` lines."""
    lines = source.text.count("\n")
    if lines >= limit:
        yield source.at(lines, f"has {lines} lines; fewer than {limit} are allowed")


def long_functions(limit: int, source: Source) -> Iterator[str]:
    """A function has at most `limit` lines, its docstring not counted."""
    for node in ast.walk(source.tree):
        if isinstance(node, _FUNCTIONS):
            lines = _height(node) - (_height(node.body[0]) if ast.get_docstring(node) else 0)
            if lines > limit:
                yield source.at(node.lineno, f"{node.name} has {lines} lines of {limit}")


def _height(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def mutable_state(allowed: Collection[str], source: Source) -> Iterator[str]:
    """A module keeps nothing that changes while the program runs.

    A table, upper-case or `Final`, may be a dict or a list as long as nobody writes to it. An
    empty one can only be meant to be filled.
    """
    tree = source.tree
    for node in _run_at_import(tree):
        for name, value in _assigned(node):
            if f"{source.module}.{name}" in allowed or name == "__all__":
                continue
            is_table = name.isupper() or "Final" in ast.unparse(getattr(node, "annotation", node))
            if _can_change(value) and not (is_table and _is_filled(value)):
                yield source.at(node.lineno, f"{name} is state of the module")
    tables = {name for node in _run_at_import(tree) for name, _ in _assigned(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield source.at(node.lineno, "global")
        elif (written := _written_to(node)) in tables and written.isupper():
            yield source.at(node.lineno, f"{written} is written to")


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _LATER):
            yield child
            yield from _run_at_import(child)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value


def _can_change(value: ast.AST) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in _MUTABLE
    return isinstance(value, _DISPLAYS)


def _is_filled(value: ast.AST) -> bool:
    """Tell whether `value` is a dict, list or set that is written down with what is in it."""
    if isinstance(value, ast.Call):
        return ast.unparse(value.func) in _PLAIN and bool(value.args or value.keywords)
    return bool(getattr(value, "keys", True) and getattr(value, "elts", True))


def _written_to(node: ast.AST) -> str | None:
    """Give the name whose value `node` changes in place, if it does."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
        changed = node.value
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) in _MUTATORS:
        changed = node.func.value
    else:
        return None
    return changed.id if isinstance(changed, ast.Name) else None


def cycles(sources: Collection[Source]) -> Iterator[str]:
    """No module leads back to itself by way of imports that run at import."""
    modules = {source.module for source in sources}
    graph = {
        source.module: {
            room_of(each.name, modules) for each in source.imports() if not each.is_late
        }
        - {None, source.module}
        for source in sources
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as err:
        yield " imports ".join(reversed(err.args[1]))
