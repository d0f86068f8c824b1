from typing import Literal

import anthropic
import pydantic
import pytest
from conftest import ANSWER, PROBLEM, WEATHER, WEATHER_SCHEMA

TOOLS = [{"name": "get_weather", "description": "Current weather of a city", "input_schema": WEATHER_SCHEMA}]
GREEDY = {"extra_body": {"temperature": 0}}


@pytest.fixture
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none")


def test_chat(client):
    r = client.messages.create(model="demo", max_tokens=200, messages=[{"role": "user", "content": PROBLEM}], **GREEDY)
    assert r.content[0].text.endswith(ANSWER) and r.stop_reason == "end_turn"


def test_stream(client):
    with client.messages.stream(model="demo", max_tokens=200, messages=[{"role": "user", "content": PROBLEM}], **GREEDY) as stream:
        assert "".join(stream.text_stream).endswith(ANSWER)


def test_tools(client):
    r = client.messages.create(model="demo", max_tokens=200, messages=[{"role": "user", "content": WEATHER}], tools=TOOLS, **GREEDY)
    assert r.stop_reason == "tool_use" and r.content[-1].input == {"city": "Rome"}


def test_errors_are_the_clients_own(client):
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(model="demo", max_tokens=5, messages=[])
    assert error.value.body["error"]["type"] == "invalid_request_error"


def test_tools_streamed(client):
    with client.messages.stream(model="demo", max_tokens=200, messages=[{"role": "user", "content": WEATHER}], tools=TOOLS, **GREEDY) as stream:
        assert stream.get_final_message().content[-1].input == {"city": "Rome"}


class Total(pydantic.BaseModel):
    more: bool
    unit: Literal["apples", "pens"]


def test_structured_output(client):
    r = client.messages.parse(model="demo", max_tokens=200, messages=[{"role": "user", "content": PROBLEM}], output_format=Total, **GREEDY)
    assert isinstance(r.parsed_output, Total)
