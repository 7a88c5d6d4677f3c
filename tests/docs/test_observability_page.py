"""The page about the access log and the metrics names all of them, and nothing else."""

import re
from pathlib import Path

from support.gateways import DEMO_CONFIG, started
from support.prometheus import parse
from support.wires import ASK, request, run, wire

from server.observing.lines import Line

PAGE = (Path(__file__).parents[2] / "docs/observability.md").read_text()
LOG, METRICS = PAGE.split("## Metrics")


def _first_cells(text):
    cells = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_page_names_every_key_of_a_line():
    assert sorted(_first_cells(LOG)) == sorted(Line.__struct_fields__)


def test_the_page_names_every_metric(tmp_path):
    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway, gateway.client() as client:
            await client.post("/v1/messages", json=ASK | {"stream": True})
            async with wire(gateway.url) as connection:
                await connection.ask(request("GET", "/nowhere"))
            return parse((await client.get("/metrics")).text).kinds

    kinds = run(scenario)

    rows = re.findall(r"^\| (`.+?) \| (\w+) \|", METRICS, re.MULTILINE)
    told = {name: kind for cell, kind in rows for name in re.findall(r"`(\w+)`", cell)}
    assert told == kinds
