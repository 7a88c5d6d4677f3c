import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent / "bench_tokens.py"
KINDS = ("prose", "code", "base64", "Chinese, escaped", "turns of empty parts")


def test_the_benchmark_of_token_estimates_runs():
    words = [sys.executable, BENCH, "--bytes", "20000"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert [kind for kind in KINDS if f"\n{kind} " not in done.stdout] == []
