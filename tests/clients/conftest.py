"""Clients as their users install them, each in an environment of its own: ./dev clients."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from nibble_server import Server  # noqa: E402

PROBLEM = "Tom has 23 apples. Tom buys 48 more apples. How many apples does Tom have now?"
ANSWER = "The answer is 71."
WEATHER = "What is the weather in Rome?"
WEATHER_SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "name of the city"}}, "required": ["city"]}


@pytest.fixture(scope="session")
def server():
    s = Server("--random-seed", "1")
    yield s
    assert s.stop() == 0
