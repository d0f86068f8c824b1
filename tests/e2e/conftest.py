import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from nibble_server import NIBBLE, REPO, Server  # noqa: E402, F401 - for the tests


@pytest.fixture(scope="session")
def server():
    s = Server("--random-seed", "1")
    yield s
    assert s.stop() == 0


@pytest.fixture(scope="session")
def client(server):
    return server.client()
