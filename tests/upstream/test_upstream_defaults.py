"""Defaults that no test waits for, and operators rely on."""

import ssl

from server.upstream.pool import MAX_IDLE_S, Pool
from server.upstream.relay import PING_AFTER_S


def test_a_provider_is_verified_by_authority_and_by_name():
    context = Pool().ssl_context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is True
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_silence_is_broken_after_15_seconds():
    assert PING_AFTER_S == 15


def test_a_connection_is_dropped_before_a_common_proxy_drops_it():
    assert MAX_IDLE_S < 60
