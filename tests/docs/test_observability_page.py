"""The page about access log, metrics and traces names all that they say, and nothing else."""

import re
from pathlib import Path

from support.collectors import collector
from support.gateways import DEMO_CONFIG, started
from support.prometheus import parse
from support.wires import ASK, request, run, wire

from server.observing import traces
from server.observing.lines import Line

PAGE = (Path(__file__).parents[2] / "docs/observability.md").read_text()
LOG, REST = PAGE.split("## Metrics")
METRICS, TRACES = REST.split("## Traces")


def _first_cells(text):
    cells = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_page_names_every_key_of_a_line():
    assert sorted(_first_cells(LOG)) == sorted(Line.__struct_fields__)


def test_the_page_names_every_metric(tmp_path):
    async def scenario(there):
        config = f'{DEMO_CONFIG}\ntraces: {{endpoint: "{there.url}"}}\n'
        async with started(tmp_path, config) as gateway, gateway.client() as client:
            await client.post("/v1/messages", json=ASK | {"stream": True})
            async with wire(gateway.url) as connection:
                await connection.ask(request("GET", "/nowhere"))
            return parse((await client.get("/metrics")).text).kinds

    with collector() as there:
        kinds = run(lambda: scenario(there))

    rows = re.findall(r"^\| (`.+?) \| (\w+) \|", METRICS, re.MULTILINE)
    told = {name: kind for cell, kind in rows for name in re.findall(r"`(\w+)`", cell)}
    assert told == kinds


def test_the_page_names_every_attribute_of_a_span(tmp_path):
    async def scenario():
        heard = []
        async with started(tmp_path, DEMO_CONFIG) as gateway, gateway.client() as client:
            gateway.services.watch.feed.subscribe(heard.append)
            await client.post("/v1/messages", json=ASK)
        return heard[0]

    record = run(scenario)

    cells = re.findall(r"^\| (`.+?) \|", TRACES, re.MULTILINE)
    told = [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]
    assert sorted(told) == sorted(traces._conventional(record) | traces._ours(record))
