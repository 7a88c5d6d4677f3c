import pytest

from server.config.load import load
from server.errors import ConfigError

MINIMAL = """\
upstreams: {demo: {protocol: demo}}
models:
  smart: {targets: [{upstream: demo, model: demo-smart}], free: true}
"""


@pytest.fixture
def write(tmp_path):
    """Write config.yaml; give its path."""

    def write_config(text):
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_config


@pytest.fixture
def load_minimal(write):
    """Load the smallest config, with `text` from line 4 on."""
    return lambda text="": load(write(MINIMAL + text))


@pytest.fixture
def refusal(write):
    """Load a config that is refused; give the error without the folder's name."""

    def refuse(text, *, after_minimal=False):
        path = write(MINIMAL + text if after_minimal else text)
        with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
            load(path)
        return str(caught.value).removeprefix(f"{path.parent}/")

    return refuse
