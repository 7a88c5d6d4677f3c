"""What a machine is and what its processes use, as Linux tells it; None elsewhere."""

import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

_IS_LINUX = sys.platform == "linux"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    """Seconds of CPU that a process has used, all its threads together, in steps of a tick."""
    if not _IS_LINUX:
        return None
    # The name of the program stands in brackets and may hold anything.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_S


def busy_s():
    """Seconds that the cores were taken since the machine started, by its host too."""
    if not _IS_LINUX:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, stolen = _ticks()[:8]
    return (user + nice + system + irq + softirq + stolen) / _TICKS_PER_S


def pss_mib(pid):
    """Memory of a process; of what it shares with others, its share."""
    if not _IS_LINUX:
        return None
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def calibration_ms():
    """How long a fixed loop takes, at best: to compare machines, and moments of one machine."""
    return min(_loop_ms() for _ in range(5))


def pin(pid, core):
    """Keep a process to one core; None leaves it where it is."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def cores():
    """Give a core for the gateway and another for all else; None where that cannot be had."""
    if not hasattr(os, "sched_setaffinity") or len(usable := sorted(os.sched_getaffinity(0))) < 2:
        return None, None
    return usable[0], usable[1]


def description():
    """Name what the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _ticks():
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]


def _loop_ms():
    begun, total = time.perf_counter(), 0
    for number in range(200_000):
        total += number & 7
    return (time.perf_counter() - begun) * 1e3


def _cpu_model():
    if _IS_LINUX:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
