"""Every command is run: one that changes what counts, and is not in the audit log, fails here."""

import asyncio
import os
import pwd

import pytest
from support.changes import audited, check_told, watched
from support.fake_stripe import fake_stripe
from support.gateways import lay_out
from support.processes import Process
from support.selling import ENVIRON, selling_config, shop

from gatewayctl.main import NOUNS, load_noun

ME = pwd.getpwuid(os.getuid()).pw_name
# By the first `init`.
BEGUN = ["db.migrated", "config.initialised", "tenant.created", "subscription.set", "key.created"]
# Each row: a command line, KEY for the newest key's id, and what it leaves in the log.
COMMANDS = (
    ("init", ""),
    ("keys create ci --member ada --scope inference --expires 90d", "key.created"),
    ("keys list", ""),
    ("keys show KEY", ""),
    ("keys limit KEY --monthly 10 --models smart", "key.limited"),
    ("keys rotate KEY --grace 1h", "key.created key.rotated"),
    ("keys rotate KEY --grace 0s", "key.created key.rotated"),
    ("keys revoke KEY", "key.revoked"),
    ("keys revoke KEY", ""),
    ("tenants create acme", "tenant.created"),
    ("tenants list", ""),
    ("tenants show acme", ""),
    ("subscription set team", "subscription.set"),
    ("subscription show", ""),
    ("subscription cancel", "subscription.cancelled"),
    ("subscription cancel", ""),
    ("credits grant 5 --reason first --ref once", "credits.granted"),
    ("credits grant 5 --reason first --ref once", ""),
    ("credits adjust --reason typo -- -1", "credits.adjusted"),
    ("credits show", ""),
    ("credits ledger", ""),
    ("credits statement", ""),
    ("credits verify", ""),
    ("credits sync", "stripe.topup"),
    ("credits sync", ""),
    ("usage", ""),
    ("audit", ""),
    ("presets list", ""),
    ("presets show cline", ""),
    ("presets check", ""),
    ("presets render cline", ""),
    ("models list", ""),
    ("models check", ""),
    ("config path", ""),
    ("config check", ""),
    ("config show", ""),
    ("db migrate", ""),
    ("db check", ""),
    ("init --force", "config.initialised"),
)
SERVING = {"quickstart", "serve"}
WITHOUT_DATABASE = {"mock", "service install", "service uninstall"}
READS = ("list", "show", "check", "path")  # verbs that say so themselves


@pytest.fixture
def fake(home, monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    with fake_stripe() as running:
        yield running


@pytest.fixture
def database(home, cli, fake):
    """What `init` makes in a gateway that sells, and a top-up that was paid untold."""
    lay_out(home, selling_config(fake.url) + "default_tier: team\n")
    assert cli("init").code == 0
    path = home / "gateway.db"
    assert [(action, actor) for _, actor, action, *_ in audited(path)] == [
        (action, f"init:{ME}") for action in BEGUN
    ]

    async def sell():
        async with shop(home, fake) as opened:
            await opened.paid(2500)

    asyncio.run(sell())
    return path


def _commands():
    for noun in NOUNS:
        verbs = getattr(load_noun(noun), "commands", None)
        yield from [noun] if verbs is None else [f"{noun} {verb}" for verb in verbs]


def _last(path):
    return audited(path)[-1][0]


def test_every_command_that_changes_something_is_in_the_log(cli, database):
    for line, expected in COMMANDS:
        key_id = cli("keys", "list").rows[0][0]
        before, last = watched(database), _last(database)

        done = cli(*(key_id if word == "KEY" else word for word in line.split()))

        rows = audited(database, last)
        assert done.code == 0, (line, done.err)
        assert [action for _, _, action, *_ in rows] == expected.split(), line
        assert watched(database) == before or rows, line
        for _, actor, action, *_ in rows:
            assert actor == (
                "stripe" if action.startswith("stripe.") else f"{_program(line)}:{ME}"
            ), line
    check_told(database)


def _program(line):
    return "init" if line.startswith("init") else "cli"


def test_every_command_is_in_the_walk():
    """Who adds a command says here what of it the log must have."""
    may_change = {command for command in _commands() if not command.endswith(READS)}
    walked = {" ".join(line.split()[:size]) for line, _ in COMMANDS for size in (1, 2)}

    assert may_change - walked - SERVING - WITHOUT_DATABASE == set()


@pytest.mark.parametrize(
    ("word", "actions"),
    [
        ("quickstart", [*BEGUN[:3], "subscription.set", "credits.granted", "key.created"]),
        ("serve", []),
    ],
)
def test_what_serves_is_in_the_log_with_what_it_began(cli, home, word, actions):
    path = home / "gateway.db"
    if word == "serve":
        assert cli("init").code == 0

    async def serve():
        last = len(audited(path))
        process = await Process.start(word, "--port", "0")
        assert await process.end() == 0
        return audited(path, last)

    first = asyncio.run(serve())
    again = asyncio.run(serve()) if word == "serve" else []

    told = [(action, actor) for _, actor, action, *_ in first]
    assert told == [
        *((action, f"init:{ME}") for action in actions),
        ("price.set", f"serve:{ME}"),
        ("price.set", f"serve:{ME}"),
    ]
    assert again == []
    check_told(path)


def test_files_that_are_rewritten_while_the_server_runs_are_in_the_log(cli, ready, home):
    path = home / "gateway.db"
    last = _last(path)

    async def rewrite():
        process = await Process.start("serve", "--port", "0")
        done = await asyncio.to_thread(cli, "init", "--force")
        await process.end()
        return done

    assert asyncio.run(rewrite()).code == 0

    (row,) = [row for row in audited(path, last) if row[2] != "price.set"]
    assert (row[1], row[2], row[3]) == (
        f"init:{ME}",
        "config.initialised",
        str(home / "config.yaml"),
    )


def test_a_migration_by_hand_is_in_the_log(cli, ready, home):
    for path in home.glob("gateway.db*"):
        path.unlink()
    (home / "gateway.db").touch()

    assert cli("db", "migrate").code == 0

    (row,) = audited(home / "gateway.db")
    assert row[1:4] == (f"cli:{ME}", "db.migrated", "gateway.db")


def test_a_change_that_fails_is_not_in_the_log(cli, ready, home):
    path = home / "gateway.db"
    before = audited(path)

    for line in (
        "keys create ci --tenant nobody",
        "keys revoke key_gone",
        "keys rotate key_gone",
        "tenants create default",
        "subscription set gold",
        "credits adjust --reason much -- -1000",
    ):
        assert cli(*line.split()).code != 0, line

    assert audited(path) == before
