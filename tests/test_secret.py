"""The type that secrets travel in: nothing shows one by accident."""

import copy
import json
import pickle
import traceback
from dataclasses import dataclass

import msgspec
import pytest

from server.config.load import load
from server.secret import Secret

CANARY = "sk-canary-7351"


@dataclass
class _Holder:
    secret: Secret


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        ascii,
        "{}".format,
        "{:.40}".format,
        "{0!r}".format,
        lambda secret: f"{secret!s:>3}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: str([secret, {"key": secret}]),
        lambda secret: str(_Holder(secret)),
        lambda secret: str(ValueError(secret)),
        lambda secret: "".join(traceback.format_exception(ValueError("key", secret))),
    ],
)
def test_a_secret_prints_as_stars(show):
    shown = show(Secret(CANARY))

    assert "***" in shown
    assert CANARY not in shown


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        msgspec.yaml.encode,
        msgspec.to_builtins,
        pickle.dumps,
        copy.deepcopy,
    ],
)
@pytest.mark.parametrize("wrap", [lambda secret: secret, lambda secret: {"key": [secret]}])
def test_no_encoder_takes_a_secret(write, wrap):
    with pytest.raises(TypeError, match=r"Secret|a secret is not written anywhere"):
        write(wrap(Secret(CANARY)))


def test_a_secret_is_revealed_compared_and_counted_by_its_text():
    assert Secret(CANARY).reveal() == CANARY
    assert Secret(CANARY) == Secret(CANARY)
    assert Secret(CANARY) != Secret("another")
    assert Secret(CANARY) != CANARY
    assert Secret("é\udcff") == Secret("é\udcff")
    assert len({Secret(CANARY), Secret(CANARY)}) == 1
    assert [bool(Secret(text)) for text in ("", "0")] == [False, True]


def test_a_config_with_secrets_written_out_can_be_printed(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "upstreams:\n"
        f"  a: {{protocol: demo, api_key: {CANARY}, headers: {{x-team: {CANARY}}},"
        f" proxy: 'http://user:{CANARY}@proxy:3128'}}\n"
        "models: {}\n"
        f"stripe: {{secret_key: {CANARY}, webhook_secrets: [{CANARY}]}}\n"
    )

    settings = load(path)

    assert CANARY not in repr(settings)
    assert repr(settings).count("***") == 5
