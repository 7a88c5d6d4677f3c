"""`gatewayctl service`: the unit, where it goes, and what it never does unasked."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayctl.units import Service
from server.config.load import load

# What may stand in each section of our unit: a typing error in a name is silently ignored there.
KNOWN = {
    "Unit": {"Description", "Documentation", "StartLimitIntervalSec", "StartLimitBurst"}
    | {"After", "Wants"},
    "Service": {"Type", "User", "ExecStart", "ExecReload", "WorkingDirectory", "Restart"}
    | {"EnvironmentFile", "RestartSec", "RestartPreventExitStatus", "RestartForceExitStatus"}
    | {"KillSignal", "KillMode", "TimeoutStopSec"}
    | {"LimitNOFILE", "UMask", "NoNewPrivileges", "PrivateTmp", "ProtectSystem", "ProtectHome"}
    | {"ReadWritePaths", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime"}
    | {"RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute", "PrivateUsers"}
    | {"SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber", "PrivateDevices"}
    | {"CapabilityBoundingSet", "AmbientCapabilities", "ProtectClock", "ProtectControlGroups"}
    | {"ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"},
    "Install": {"WantedBy"},
}
# A stand-in for the program: it notes what it is asked, and answers as a systemd that works.
SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *show-environment) exit {reachable} ;;
  *is-enabled*) echo enabled ;;
  *is-active*) echo inactive; exit 3 ;;
esac
"""


@pytest.fixture
def machine(home, monkeypatch):
    """A PATH with a scripted systemctl alone; gives what it was asked."""

    def make(*, reachable=True):
        folder, log = home / "programs", home / "asked.txt"
        folder.mkdir()
        program = folder / "systemctl"
        program.write_text(SYSTEMCTL.format(log=log, reachable=0 if reachable else 1))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return lambda: log.read_text().splitlines()

    return make


@pytest.fixture
def no_systemd(home, monkeypatch):
    monkeypatch.setenv("PATH", str(home / "nothing"))


def _unit_path(home):
    return home / ".config" / "systemd" / "user" / "gatewayctl.service"


def _settings(unit):
    """Read a unit as systemd does, and hold every line to what is known."""
    found, section = {}, None
    for line in unit.splitlines():
        if not line or line.startswith("#"):
            continue
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = heading[1]
            continue
        name, equals, value = line.partition("=")
        assert equals, line
        assert name in KNOWN[section], line
        assert name not in found, line
        assert value == value.strip(), line
        found[name] = value
    return found


def test_the_unit_fits_a_gateway_with_one_sqlite_file(ready, cli, home):
    done = cli("service", "install", "--print")

    unit = _settings(done.out)
    program = Path(sys.executable).with_name("gatewayctl")
    assert (done.code, done.err) == (0, "")
    assert unit["ExecStart"] == f'"{program}" --config "{home}/config.yaml" serve'
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert unit["WorkingDirectory"] == str(home)
    assert unit["EnvironmentFile"] == f"-{home}/gateway.env"
    assert unit["ReadWritePaths"] == f'"{home.resolve()}"'
    assert unit["TimeoutStopSec"] == "50"
    hardened = {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "read-only",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
        "SystemCallFilter": "@system-service",
        "MemoryDenyWriteExecute": "yes",
        "KillSignal": "SIGTERM",
        "Restart": "on-failure",
        "RestartForceExitStatus": "SIGHUP",  # by itself that is no failure
    }
    assert unit.items() >= hardened.items()


def test_printing_changes_nothing_and_needs_no_systemd(ready, cli, home, no_systemd):
    before = sorted(home.rglob("*"))

    results = [cli("service", "install", "--print"), cli("service", "install", "--system")]

    assert [done.code for done in results] == [0, 0]
    assert sorted(home.rglob("*")) == before
    assert "sudo tee /etc/systemd/system/gatewayctl.service" in results[1].err
    assert _settings(results[1].out)["User"]


def test_the_time_to_stop_is_above_the_drain_and_other_folders_can_be_written(ready, cli, config):
    config("drain_s: 30", "drain_s: 90.5")
    config("database: gateway.db", "database: data/gateway.db")

    unit = _settings(cli("service", "install", "--print").out)

    assert unit["TimeoutStopSec"] == "111"
    folders = re.findall(r'"([^"]*)"', unit["ReadWritePaths"])
    assert {Path(folder).name for folder in folders} >= {"data"}
    assert len(folders) == 2


def test_installing_writes_the_unit_and_a_private_file_for_keys(ready, cli, home, machine, config):
    asked = machine()
    config("  demo:", '  a: {protocol: openai, base_url: "http://a", api_key: "${A}"}\n  demo:')

    first, again = cli("service", "install"), cli("service", "install")

    path, keys = _unit_path(home), home / "gateway.env"
    assert (first.code, first.out) == (0, f"{path}\n")
    assert (again.code, again.out) == (0, f"{path}\n")
    assert "Up to date" in again.err
    assert path.read_text() == cli("service", "install", "--print").out
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert "#A=\n#STRIPE_SECRET_KEY=\n" in keys.read_text()
    once = ["--user show-environment", "--user daemon-reload", "--user enable gatewayctl.service"]
    assert asked() == once * 2


def test_installing_makes_the_folders_that_the_unit_lets_be_written(
    ready, cli, home, machine, config
):
    """systemd does not start a unit whose `ReadWritePaths` are not there."""
    machine()
    config("file: gateway.log", "file: logs/gateway.log")

    assert cli("service", "install").code == 0
    assert (home / "logs").is_dir()
    assert f'"{home.resolve()}/logs"' in _unit_path(home).read_text()


def test_a_unit_that_differs_is_shown_and_only_replaced_by_force(ready, cli, home, machine):
    machine()
    cli("service", "install")
    path = _unit_path(home)
    path.write_text(path.read_text().replace("RestartSec=2", "RestartSec=9"))
    (home / "gateway.env").write_text("A=b\n")

    refused = cli("service", "install")
    kept = path.read_text()
    forced = cli("service", "install", "--force")

    assert refused.code == 6
    assert "-RestartSec=9\n+RestartSec=2\n" in refused.err
    assert "RestartSec=9" in kept
    assert forced.code == 0
    assert "-RestartSec=9\n+RestartSec=2\n" in forced.err
    assert "RestartSec=2" in path.read_text()
    assert (home / "gateway.env").read_text() == "A=b\n"


def test_keys_that_others_can_read_are_warned_of(ready, cli, home, machine):
    machine()
    (home / "gateway.env").write_text("A=b\n")
    (home / "gateway.env").chmod(0o644)

    assert "others can read" in cli("service", "install").err


def test_uninstalling_stops_it_and_leaves_all_but_the_unit(ready, cli, home, machine):
    asked = machine()
    cli("service", "install")
    begun = len(asked())

    done, again = cli("service", "uninstall"), cli("service", "uninstall")

    assert (done.code, again.code) == (0, 0)
    assert not _unit_path(home).exists()
    assert (home / "gateway.env").exists()
    assert asked()[begun:] == [
        "--user show-environment",
        "--user disable --now gatewayctl.service",
        "--user daemon-reload",
        "--user show-environment",
    ]


def test_a_unit_of_somebody_else_is_not_removed(ready, cli, home, machine):
    machine()
    path = _unit_path(home)
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nExecStart=/bin/true\n")

    assert cli("service", "uninstall").code == 4
    assert path.exists()


def test_show_tells_what_is_installed(ready, cli, home, machine, config):
    machine()
    missing = cli("service", "show")
    cli("service", "install")
    installed = cli("service", "show", "--json").json
    config("drain_s: 30", "drain_s: 60")
    stale = cli("service", "show", "--json").json

    assert missing.code == 5
    assert installed == {
        "object": "service",
        "unit": str(_unit_path(home)),
        "config": str(home / "config.yaml"),
        "environment_file": str(home / "gateway.env"),
        "is_current": True,
        "enabled": "enabled",
        "active": "inactive",
    }
    assert stale["is_current"] is False


@pytest.mark.parametrize("verb", ["install", "uninstall", "show"])
def test_without_systemd_it_says_so_and_changes_nothing(ready, cli, home, no_systemd, verb):
    before = sorted(home.rglob("*"))

    done = cli("service", verb)

    assert done.code == 7
    assert "no systemd" in done.err
    assert "--print" in done.err
    assert sorted(home.rglob("*")) == before


def test_a_systemd_that_does_not_answer_changes_nothing(ready, cli, home, machine):
    machine(reachable=False)

    assert cli("service", "install").code == 7
    assert not _unit_path(home).exists()


def test_what_root_is_told_to_do_empties_no_file_of_keys(ready, cli, home, no_systemd):
    """Its lines are pasted again after an upgrade, when the keys are long there."""
    folder = home / "our gateway"
    folder.mkdir()
    shutil.copy(home / "config.yaml", folder)
    path = folder / "config.yaml"

    first = cli("--config", path, "service", "install", "--system").err
    (folder / "gateway.env").write_text("SOME_KEY=there\n")
    again = cli("--config", path, "service", "install", "--system").err

    assert f"--config '{path}' service install --system --print | sudo tee" in first
    assert f"install -m 600 /dev/null '{folder / 'gateway.env'}'" in first
    assert "/dev/null" not in again


def test_uninstalling_from_the_machine_is_told_and_not_done(ready, cli, no_systemd):
    done = cli("service", "uninstall", "--system")

    assert done.code == 0
    assert done.out.splitlines()[0] == "systemctl disable --now gatewayctl.service"


def test_a_machines_unit_may_listen_below_1024_and_drops_all_else(ready, cli, config):
    before = _settings(cli("service", "install", "--system").out)
    config("port: 8080", "port: 443")
    after = _settings(cli("service", "install", "--system").out)

    assert before["CapabilityBoundingSet"] == ""
    assert after["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert "PrivateUsers" not in after


NASTY = 'o d%n "x" $y [a]* \\z'


def test_paths_are_quoted_as_systemd_reads_them(ready, home):
    folder = home / NASTY
    folder.mkdir()
    shutil.copy("config.yaml", folder)

    unit = _settings(Service(load(folder / "config.yaml"), Path("/opt/g"), None).unit)

    assert unit["ExecStart"].endswith('/o d%%n \\"x\\" $$y [a]* \\\\z/config.yaml" serve')
    assert unit["WorkingDirectory"].endswith('/o d%%n "x" $y [a]* \\z')
    assert unit["EnvironmentFile"].endswith('/o d%%n "x" $y \\[a]\\* \\\\z/gateway.env')


def test_a_path_that_no_unit_can_name_is_refused(ready, cli, home):
    folder = home / "two\nlines"
    folder.mkdir()
    shutil.copy("config.yaml", folder)

    done = cli("--config", folder / "config.yaml", "service", "install", "--print")

    assert done.code == 2
    assert "cannot stand in a unit file" in done.err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["plain", NASTY])
@pytest.mark.parametrize("user", [None, "daemon"])
def test_systemd_itself_finds_nothing_wrong(ready, home, name, user):
    folder, program = home / name, home / "gatewayctl"
    folder.mkdir()
    shutil.copy("config.yaml", folder)
    shutil.copy("/bin/true", program)
    unit = home / "gatewayctl.service"
    unit.write_text(Service(load(folder / "config.yaml"), program, user).unit)

    command = ["systemd-analyze", *(["--user"] if user is None else []), "verify", str(unit)]
    done = subprocess.run(
        command,
        env={**os.environ, "XDG_RUNTIME_DIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )

    about_ours = [line for line in done.stderr.splitlines() if "gatewayctl" in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr
