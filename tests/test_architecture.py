"""The rooms of the house: who may import whom, and what holds for every module."""

import re
import subprocess
import sys
import tomllib
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from support import source_rules as rules
from support.source_rules import Source

ROOT = Path(__file__).parents[1]

# Each row: a room, and the rooms it may import; it stands below all that it names. A name is
# short for `server.…`, or for `gatewayctl.…` where no room of the server has it.
ROWS = {
    "server.errors": "",
    "server.secret": "",
    "server.clock": "",
    "server.counts": "",
    "server.logs": "",
    "server.protocols": "errors",
    "server.config": "errors secret",
    "server.store": "counts errors clock",
    "server.routing": "errors clock config protocols",
    "server.noting": "clock routing store",
    "server.presets": "errors config protocols",
    "server.tenants": "errors clock config store",
    "server.limits": "counts errors config tenants",
    "server.usage": "errors clock store",
    "server.billing": "counts errors clock config protocols store tenants usage",
    "server.billing.stripe": "counts errors secret clock config store tenants usage billing",
    "server.upstream": "errors secret config protocols",
    "server.upstream.demo": "counts clock",
    "server.observing": "errors secret clock logs usage",
    "server.calls": "errors config protocols routing presets tenants limits billing",
    "server.terms": "billing calls protocols tenants",
    "server.planning": "billing calls config presets protocols routing",
    "server.rows": "errors clock protocols tenants usage billing upstream calls observing",
    "server.holding": "errors clock protocols store usage billing upstream calls terms rows",
    "server.answering": "errors config protocols upstream calls",
    "server.conversations": "protocols calls rows",
    "server.journey": (
        "errors limits usage routing upstream calls planning rows holding answering conversations"
    ),
    "server.gateway": (
        "errors counts limits store usage billing routing upstream observing calls rows holding "
        "answering journey"
    ),
    "server.routes": (
        "errors clock config protocols store routing tenants limits usage billing billing.stripe "
        "observing calls rows gateway"
    ),
    "server.app": "errors config routes",
    "server.listening": "errors config",
    "server.providers": "secret config upstream",
    "server.tracing": "secret config observing",
    "server.reloading": (
        "errors clock logs config store presets billing upstream calls routes providers"
    ),
    "server.draining": "counts routes",
    "server.lifecycle": (
        "errors clock counts logs config store presets billing billing.stripe upstream "
        "upstream.demo observing calls gateway noting routes app draining listening providers "
        "tracing reloading"
    ),
    "gatewayctl.output": "",
    "gatewayctl.exits": "errors",
    "gatewayctl.spans": "exits",
    "gatewayctl.systemd": "exits",
    "gatewayctl.units": "config",
    "gatewayctl.limit_flags": "counts config exits",
    "gatewayctl.reach": "secret config",
    "gatewayctl.health": "errors clock config store",
    "gatewayctl.session": "counts errors config store output exits",
    "gatewayctl.options": "errors store exits session",
    "gatewayctl.welcome": "billing",
    "gatewayctl.bootstrap": "config store presets tenants billing session",
    "gatewayctl.ending": "errors exits session",
    "gatewayctl.serving": "config store lifecycle output exits session ending",
    "gatewayctl.syncing": "clock config store billing.stripe exits session",
    "gatewayctl.commands": (
        "errors secret clock counts config protocols store routing presets tenants usage billing "
        "upstream.demo lifecycle output exits spans reach health session options welcome "
        "bootstrap serving syncing systemd units limit_flags"
    ),
    "gatewayctl.main": "output exits session options ending",
}

# Each row: a third party, and where it may be imported.
FENCES = {
    "httptools": "server.upstream",
    "httpx": "server.upstream server.billing.stripe",
    "msgspec": "server gatewayctl",
    "opentelemetry": "server.observing.traces",
    "peewee": "server.store server.tenants server.billing server.usage",
    "platformdirs": "server.config",
    "playhouse": "server.store",
    "rich": "gatewayctl",
    "sanic": "server.routes server.app server.lifecycle",
    "stripe": "server.billing.stripe",
    "typer": "gatewayctl",
    "uvloop": "server.lifecycle",
    "yaml": "server.config server.presets",
}

# These work on their arguments alone: no file, no network, no clock, no chance.
PURE = (
    "server.protocols server.routing.breaker server.routing.catalog server.routing.itinerary "
    "server.routing.places server.routing.resolve server.routing.spread server.routing.verdict "
    "server.planning server.conversations server.presets.apply server.presets.splice "
    "server.billing.money server.billing.pricing server.limits server.calls"
)

# A command imports these inside the function that needs them: `--help` is to answer at once.
SLOW = (
    "httpx opentelemetry rich sanic stripe uvloop "
    "server.app server.gateway server.lifecycle server.routes server.upstream.client"
)

STATE = {
    "server.store.models.database": "the models need their database before it is known",
}

MODULE_LINES, FUNCTION_LINES = 400, 40


def _house(rows):
    def full(short):
        return f"server.{short}" if f"server.{short}" in rows else f"gatewayctl.{short}"

    return {room: [full(name) for name in names.split()] for room, names in rows.items()}


def _sources(*folders):
    return [Source.read(path, ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py")]


HOUSE = _house(ROWS)
FENCED = {package: places.split() for package, places in FENCES.items()}
OURS = _sources("server", "gatewayctl")
SERVER = [source for source in OURS if rules.is_in(source.module, ["server"])]
CLI = [source for source in OURS if rules.is_in(source.module, ["gatewayctl"])]
PURE_ONES = [source for source in SERVER if rules.is_in(source.module, PURE.split())]

imports_beyond = partial(rules.imports_beyond, HOUSE)
foreign_imports_beyond = partial(rules.foreign_imports_beyond, FENCED)
imports_too_early = partial(rules.imports_too_early, SLOW.split())
long_modules = partial(rules.long_modules, MODULE_LINES)
long_functions = partial(rules.long_functions, FUNCTION_LINES)
mutable_state = partial(rules.mutable_state, STATE)


def _all_found(rule, sources):
    return [line for source in sources for line in rule(source)]


def test_rooms_import_only_what_the_table_allows():
    assert _all_found(imports_beyond, OURS) == []


def test_third_parties_stay_inside_their_fences():
    assert _all_found(foreign_imports_beyond, OURS) == []


def test_pure_modules_reach_for_nothing():
    assert _all_found(rules.impure_imports, PURE_ONES) == []


def test_commands_import_what_is_slow_only_when_they_need_it():
    assert _all_found(imports_too_early, CLI) == []


def test_imports_are_absolute():
    assert _all_found(rules.relative_imports, [*OURS, *_sources("tests", "docs")]) == []


def test_nobody_catches_whatever_comes():
    assert _all_found(rules.broad_excepts, OURS) == []


def test_the_server_does_not_print():
    assert _all_found(rules.prints, SERVER) == []


def test_modules_are_short():
    assert _all_found(long_modules, OURS) == []


def test_functions_are_short():
    assert _all_found(long_functions, OURS) == []


def test_modules_keep_no_state():
    assert _all_found(mutable_state, OURS) == []


def test_no_module_leads_back_to_itself():
    assert list(rules.cycles(OURS)) == []


def test_a_room_stands_below_all_that_it_names():
    seen = set()
    for room, names in HOUSE.items():
        assert seen.issuperset(names), room
        seen.add(room)


def test_every_room_and_every_fence_is_there():
    """A row that outlives its room would let a new one of that name in unseen."""
    modules = {source.module for source in OURS}

    assert set(HOUSE) - modules == set()
    places = {place for places in FENCED.values() for place in places}
    assert places - modules == set()
    assert set(PURE.split()) - modules == set()


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = _names_of([*project["dependencies"], *extras["otel"]])
    for_tests = needed | _names_of(extras["test"])
    near = rules.OURS | {part.stem for part in (ROOT / "tests").rglob("*")}

    assert _undeclared(OURS, near, needed) == set()
    assert _undeclared(_sources("tests", "docs"), near, for_tests) == set()


def test_every_extra_is_tested():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]

    assert set(extras["otel"]) <= set(extras["test"])


def _names_of(requirements):
    return {re.match(r"[\w.-]+", each)[0].lower() for each in requirements}


def _undeclared(sources, near, declared):
    """Give the third-party packages that `sources` import and nothing declared brings."""
    packages = {each.name.partition(".")[0] for source in sources for each in source.imports()}
    known = packages_distributions()
    foreign = packages - near - sys.stdlib_module_names
    return {each for each in foreign if declared.isdisjoint(map(str.lower, known[each]))}


def test_the_command_line_starts_without_what_is_slow():
    code = (
        f"import sys, gatewayctl.main; print(*sorted({set(SLOW.split())!r} & sys.modules.keys()))"
    )

    started = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert started.stdout == "\n"


@pytest.mark.parametrize(
    ("rule", "module", "text"),
    [
        (imports_beyond, "server.protocols.sse", "from server import clock"),
        (imports_beyond, "server.protocols.sse", "import server.clock as c"),
        (imports_beyond, "server.config.load", "def f():\n from server.store.db import Store"),
        (imports_beyond, "server.store.db", "import gatewayctl.main"),
        (imports_beyond, "server.upstream.demo.wire", "from server.upstream import pool"),
        (imports_beyond, "server.upstream.client", "from server.upstream import demo"),
        (imports_beyond, "server.errors", "if TYPE_CHECKING:\n from server.config import load"),
        (imports_beyond, "server.errors", "import server"),
        (imports_beyond, "server.app", "from server.attic import anything"),
        (imports_beyond, "server.attic", ""),
        (foreign_imports_beyond, "server.gateway", "import sanic"),
        (foreign_imports_beyond, "server.routes.wire", "from peewee import Model"),
        (foreign_imports_beyond, "server.store.db", "try:\n import requests\nexcept OSError: pass"),
        (imports_too_early, "gatewayctl.serving", "from server import lifecycle"),
        (imports_too_early, "gatewayctl.output", "from rich.table import Table"),
        (imports_too_early, "gatewayctl.output", "class A:\n import httpx"),
        (rules.impure_imports, "server.protocols.sse", "from time import monotonic"),
        (rules.impure_imports, "server.protocols.sse", "import urllib.request"),
        (rules.relative_imports, "server.app", "from . import errors"),
        (rules.relative_imports, "server.app", "from .errors import GatewayError"),
        (rules.broad_excepts, "server.app", "try: f()\nexcept: pass"),
        (rules.broad_excepts, "server.app", "try: f()\nexcept Exception as exc: raise"),
        (rules.broad_excepts, "server.app", "try: f()\nexcept (OSError, BaseException): pass"),
        (rules.broad_excepts, "server.app", "with contextlib.suppress(Exception): f()"),
        (rules.prints, "server.app", "def f():\n print('here')"),
        (long_modules, "server.app", "x = 1\n" * MODULE_LINES),
        (long_functions, "server.app", "def f():\n" + " x = 1\n" * FUNCTION_LINES),
        (long_functions, "server.app", "class A:\n async def f(s):\n" + "  x = 1\n" * 40),
        (mutable_state, "server.app", "seen = []"),
        (mutable_state, "server.app", "seen: dict[str, int] = {'a': 1}"),
        (mutable_state, "server.app", "if True:\n lines = [x for x in 'ab']"),
        (mutable_state, "server.app", "CACHE = {}"),
        (mutable_state, "server.app", "CACHE: Final = set()"),
        (mutable_state, "server.app", "_QUEUE = collections.deque([1])"),
        (mutable_state, "server.app", "numbers = itertools.count(1)"),
        (mutable_state, "server.app", "def f():\n global last\n last = 1"),
        (mutable_state, "server.app", "TABLE = {1: 2}\ndef f():\n TABLE[3] = 4"),
        (mutable_state, "server.app", "TABLE = {1: 2}\ndef f():\n del TABLE[1]"),
        (mutable_state, "server.app", "_NAMES = ['a']\ndef f():\n _NAMES.append('b')"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule, module, text):
    assert [line.partition(":")[0] for line in rule(Source(module, text))] == [module]


@pytest.mark.parametrize(
    ("rule", "module", "text"),
    [
        (imports_beyond, "server.config.load", "from server.config import schema\nimport os"),
        (imports_beyond, "server.upstream.client", "from server.errors import UpstreamError"),
        (imports_beyond, "gatewayctl.commands.serve", "def f():\n from server import lifecycle"),
        (foreign_imports_beyond, "server.config.document", "import yaml, json"),
        (imports_too_early, "gatewayctl.serving", "def f():\n from server import lifecycle"),
        (imports_too_early, "gatewayctl.output", "if TYPE_CHECKING:\n import rich.table"),
        (rules.impure_imports, "server.protocols.sse", "from urllib.parse import quote"),
        (rules.broad_excepts, "server.app", "try: f()\nexcept (OSError, ValueError): pass"),
        (rules.prints, "server.app", "console.print('there')"),
        (long_modules, "server.app", "x = 1\n" * (MODULE_LINES - 1)),
        (long_functions, "server.app", "def f():\n '''A\n\n\n'''\n" + " x = 1\n" * 39),
        (mutable_state, "server.app", "TABLE = {1: 2}\nNAMES = list(TABLE)\n__all__ = ['f']"),
        (mutable_state, "server.app", "names: Final = ['a']\npair = (1, 2)\nroom = frozenset()"),
        (mutable_state, "server.app", "def f():\n seen = []\n seen.append(1)\n return seen"),
        (mutable_state, "server.store.models", "database = DatabaseProxy()"),
    ],
)
def test_a_rule_lets_pass_what_keeps_it(rule, module, text):
    assert list(rule(Source(module, text))) == []


def test_a_cycle_is_found_unless_one_import_is_late():
    first = Source("server.a", "from server.b import two")
    second = Source("server.b", "from server import a")
    late = Source("server.b", "def two():\n from server import a")

    assert list(rules.cycles([first, second])) != []
    assert list(rules.cycles([first, late])) == []
