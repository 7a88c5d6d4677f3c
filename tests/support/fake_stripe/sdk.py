"""The SDK in this process, while a fake serves it: its calls on record, its patience short."""

import copy
from contextlib import contextmanager
from unittest.mock import patch

import stripe
from stripe._api_requestor import _APIRequestor

PAUSE_S = 0.01


@contextmanager
def watched(url, calls):
    """Add what the SDK is asked to call at `url` to `calls`, before it makes strings of it all.

    Only here can an int in `metadata` be told from a string. The SDK waits `PAUSE_S` before it
    tries again, where it would wait for half a second.
    """
    prepare = _APIRequestor._args_for_request_with_retries

    def preparing(self, method, path, params=None, options=None, **more):
        if self.base_addresses.get("api") == url:
            calls.append((method.upper(), path.partition("?")[0], copy.deepcopy(params or {})))
        return prepare(self, method, path, params, options, **more)

    with (
        patch.object(_APIRequestor, "_args_for_request_with_retries", preparing),
        patch.object(stripe.HTTPClient, "INITIAL_DELAY", PAUSE_S),
        patch.object(stripe.HTTPClient, "MAX_DELAY", PAUSE_S),
    ):
        yield
