import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from server.store.lock import ServeLock, is_held
from server.store.problems import LockHeld

HOLD = """
import sys
from pathlib import Path
from server.store.lock import ServeLock
with ServeLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

CONTEND = """
import sys
from pathlib import Path
from server.store.lock import ServeLock
from server.store.problems import LockHeld
sys.stdin.readline()
try:
    with ServeLock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except LockHeld:
    print("refused", flush=True)
"""


def start(script, database):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_lock_is_held_until_its_block_ends(tmp_path):
    database = tmp_path / "gateway.db"

    assert is_held(database) is None
    with ServeLock(database):
        assert is_held(database) == os.getpid()
        with pytest.raises(LockHeld, match=f"process {os.getpid()}"):
            ServeLock(database).acquire()
    assert is_held(database) is None
    ServeLock(database).acquire()


def test_the_lock_file_is_for_its_owner_alone_and_creates_no_database(tmp_path):
    with ServeLock(tmp_path / "gateway.db"):
        (file,) = tmp_path.iterdir()
        assert (file.name, file.stat().st_mode & 0o777) == ("gateway.db.lock", 0o600)


def test_asking_who_holds_the_lock_never_turns_a_server_away(tmp_path):
    """Who asks holds the lock himself for an instant, here for a long one."""
    with (tmp_path / "gateway.db.lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (asking, fcntl.LOCK_UN)).start()

        with ServeLock(tmp_path / "gateway.db"):
            assert is_held(tmp_path / "gateway.db") == os.getpid()


def test_another_process_is_refused_by_pid_until_the_holder_is_killed(tmp_path):
    database = tmp_path / "gateway.db"

    with start(HOLD, database) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_held(database) == holder.pid
        with pytest.raises(LockHeld, match=f"process {holder.pid}") as refused:
            ServeLock(database).acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    assert refused.value.pid == holder.pid
    assert is_held(database) is None
    with ServeLock(database):
        assert is_held(database) == os.getpid()


def test_of_two_processes_that_start_together_one_serves(tmp_path):
    database = tmp_path / "gateway.db"

    with start(CONTEND, database) as one, start(CONTEND, database) as other:
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        outcomes = sorted(process.stdout.readline() for process in (one, other))

    assert outcomes == ["held\n", "refused\n"]


def test_two_names_for_one_database_share_one_lock(tmp_path):
    """Else two servers serve it, and the second settles what the first has under way."""
    database, other = tmp_path / "gateway.db", tmp_path / "linked" / "other.db"
    other.parent.mkdir()
    other.symlink_to(database)

    with ServeLock(database):
        assert is_held(other) == os.getpid()
        with pytest.raises(LockHeld, match=f"process {os.getpid()}"):
            ServeLock(other).acquire()
