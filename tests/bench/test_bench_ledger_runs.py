import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent / "bench_ledger.py"
FIGURES = ("size", "verify", "balance", "quota view", "hold and settle, money")


def test_the_benchmark_of_the_ledger_proves_what_it_built(tmp_path):
    words = [sys.executable, BENCH, "--rows", "300", "--folder", tmp_path]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert [name for name in FIGURES if f"\n{name} " not in done.stdout] == []
    assert "300 entries, 300 requests" in done.stdout
    assert list(tmp_path.iterdir()) == []
