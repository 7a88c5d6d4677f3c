"""An ended request goes at once: what only the garbage collector finds costs every other one."""

import gc

import pytest
from support.gateways import started
from support.priced import settled
from support.wires import ASK, run


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_nothing_of_the_gateways_is_left_behind_an_answer(tmp_path, path, stream):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            ask = {**ASK, "stream": stream}
            assert (await client.post(path, json=ask)).status_code == 200
            await settled(gateway)
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    await client.post(path, json=ask)
                await settled(gateway)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                return {type(each).__qualname__ for each in gc.garbage if _is_ours(each)}
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

    assert run(scenario) == set()


def _is_ours(each):
    module = type(each).__module__
    return module.startswith(("server.upstream", "server.journey", "server.gateway", "server.hold"))
