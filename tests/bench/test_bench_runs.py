import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench_gateway.py"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells CPU and memory")
def test_the_benchmark_gives_every_figure_and_accounts_for_every_request(tmp_path):
    words = [sys.executable, BENCH, "--seconds", "0.1", "--json", "--folder", tmp_path]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [line["name"] for line in report["rows"] if line["value"] is None] == []
    assert len(set(report["accounts"].values())) == 1
    assert list(tmp_path.iterdir()) == []
