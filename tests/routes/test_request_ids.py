"""Our request ids: nobody guesses one, and those of one time stand together in an index."""

import re
import time
from itertools import islice

from server.routes.services import new_request_ids


def test_ids_are_random_and_in_the_order_of_time():
    before = time.time_ns() // 1_000_000
    ids = list(islice(new_request_ids(), 1000))
    after = time.time_ns() // 1_000_000

    made_at = [int(found[4:16], 16) for found in ids]
    assert all(re.fullmatch("req_[0-9a-f]{44}", found) for found in ids)
    assert len({found[16:] for found in ids}) == 1000
    assert made_at == sorted(made_at)
    assert before <= made_at[0] <= made_at[-1] <= after
