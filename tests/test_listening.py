import re

import pytest

from server.config.load import load
from server.errors import ConfigError
from server.listening import tls_context

CONFIG = """\
server:
  tls: {cert: server.crt, key: server.key}
upstreams:
  demo: {protocol: demo}
models:
  smart: {targets: [{upstream: demo, model: demo-smart}], free: true}
auto: {default: smart}
"""


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_certificate_that_cannot_be_used_is_named_with_the_line_that_asks_for_it(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    if text is not None:
        for name in ("server.crt", "server.key"):
            (tmp_path / name).write_text(text)

    said = (
        f"{path}:2: server.tls: {tmp_path / 'server.crt'}, with the key {tmp_path / 'server.key'}"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        tls_context(load(path))
