"""What a gateway that stops does with the requests whose clients have gone already."""

import pytest
from support.gateways import started
from support.priced import asked, balance, check_books, config, priced, settled
from support.wires import run

MODELS = priced("brief", "fault:stall:1")


@pytest.mark.parametrize(
    ("model", "patience_s", "is_whole"), [("brief", 5, True), ("endless", 0.05, False)]
)
def test_what_is_still_billed_is_waited_for_and_then_cut(tmp_path, model, patience_s, is_whole):
    """Either way it is settled, and no hold is left."""

    async def scenario():
        text = config(models=MODELS, billing="{on_disconnect: drain}")
        async with started(tmp_path, text) as gateway, gateway.client() as client:
            body = asked(model, max_tokens=64_000)
            async with client.stream("POST", "/v1/messages", json=body) as reply:
                await anext(reply.aiter_raw())
            running = len(gateway.gateway.pumps)
            await gateway.gateway.drain(patience_s)
            left = len(gateway.gateway.pumps)
            return running, left, await settled(gateway), await balance(gateway)

    running, left, (row,), after = run(scenario)

    assert (running, left) == (1, 0)
    assert row["outcome"] == "cancelled"
    assert (row["stop_reason"] is not None) is is_whole
    assert row["cost_micros"] > 0
    assert after.held_micros == 0
    check_books(tmp_path)


def test_nothing_on_its_way_is_nothing_to_wait_for(tmp_path):
    async def scenario():
        async with started(tmp_path, config()) as gateway:
            await gateway.gateway.drain(60)
            return await gateway.rows()

    assert run(scenario) == []
