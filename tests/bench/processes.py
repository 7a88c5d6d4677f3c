"""The processes of a benchmark: started on a core of theirs, stopped whatever happens."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import machine

LAUNCH = "import sys; from gatewayctl.main import run; sys.exit(run())"
PATIENCE_S = 20
CONFIG = """\
server: {{port: 0}}
upstreams:
  anthropic: {{protocol: anthropic, base_url: "http://127.0.0.1:{port}"}}
  openai: {{protocol: openai, base_url: "http://127.0.0.1:{port}/v1"}}
models:
"""
MODEL = '  "{model}": {{targets: [{targets}], {price}}}\n'
PRICE = "price: {input: '4.00', output: '20.00'}"
TARGET = "{{upstream: {upstream}, model: {model}}}"


@contextmanager
def process(words, core, **options):
    """Run Python with `words` on `core`; whatever happens, it is gone afterwards."""
    started = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # or Ctrl-C would end the callers before they were told
        **options,
    )
    try:
        machine.pin(started.pid, core)  # its threads come later, and stay there too
        yield started
    finally:
        _stop(started)


def command(folder, *words):
    """Run `gatewayctl` to its end; give what it printed."""
    line = [sys.executable, "-c", LAUNCH, "--config", folder / "config.yaml", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"gatewayctl {' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def lay_out(folder, port, jobs):
    """Write a config that leads to the upstream at `port`; give the secret of the first key."""
    models = {}
    for job in jobs:
        upstream, model = job.get("upstream", job["protocol"]), job.get("target", job["model"])
        target = TARGET.format(upstream=upstream, model=model)
        models.setdefault(job["model"], {})[target] = None
    lines = [
        MODEL.format(
            model=model,
            targets=", ".join(each),
            price="free: true" if model.startswith("free") else PRICE,
        )
        for model, each in models.items()
    ]
    (folder / "config.yaml").write_text(CONFIG.format(port=port) + "".join(lines))
    secret = command(folder, "init").strip()
    command(folder, "credits", "grant", "100000", "--reason", "benchmark")
    return secret


@contextmanager
def gateway(folder, core):
    """Run `gatewayctl serve`; give its process, its port and the seconds until it was ready."""
    words = ["-c", LAUNCH, "--config", folder / "config.yaml", "--json", "serve"]
    begun, said = time.perf_counter(), ""
    with (
        (folder / "stderr").open("w+") as errors,
        process(words, core, stderr=errors, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as started,
    ):
        while not said.endswith("}\n"):
            said += (line := started.stdout.readline())
            if not line:
                errors.seek(0)
                sys.exit(f"gatewayctl serve failed:\n{errors.read()}")
        ready_s = time.perf_counter() - begun
        yield started, int(json.loads(said)["url"].rpartition(":")[2]), ready_s


def _stop(started):
    started.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            started.wait(PATIENCE_S)
    finally:  # a second Ctrl-C ends the wait
        started.kill()
        started.wait()
        started.stdin.close()
        started.stdout.close()
