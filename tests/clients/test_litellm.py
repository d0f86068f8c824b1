import json

import litellm
import pytest
from conftest import ANSWER, PROBLEM, WEATHER, WEATHER_SCHEMA

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Current weather of a city", "parameters": WEATHER_SCHEMA}}]


def ask(server, text, **kwargs):
    return litellm.completion(model="openai/demo", api_base=server.url + "/v1", api_key="none", messages=[{"role": "user", "content": text}], temperature=0, max_tokens=200, **kwargs)


def test_chat(server):
    r = ask(server, PROBLEM)
    assert r.choices[0].message.content.endswith(ANSWER) and r.usage.total_tokens > 0


def test_stream(server):
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(server, PROBLEM, stream=True)).endswith(ANSWER)


@pytest.mark.parametrize("stream", [False, True])
def test_tools(server, stream):
    r = ask(server, WEATHER, tools=TOOLS, stream=stream)
    if stream:
        r = litellm.stream_chunk_builder(list(r))
    call = r.choices[0].message.tool_calls[0].function
    assert call.name == "get_weather" and json.loads(call.arguments) == {"city": "Rome"}


def test_through_the_messages_route(server):
    r = litellm.completion(model="anthropic/demo", api_base=server.url, api_key="none", messages=[{"role": "user", "content": PROBLEM}], temperature=0, max_tokens=200)
    assert r.choices[0].message.content.endswith(ANSWER)


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output(server, stream):
    schema = {"type": "object", "properties": {"total": {"type": "integer", "minimum": 0, "maximum": 999}, "unit": {"enum": ["apples", "pens"]}}, "required": ["total", "unit"], "additionalProperties": False}
    r = ask(server, PROBLEM, response_format={"type": "json_schema", "json_schema": {"name": "total", "strict": True, "schema": schema}}, stream=stream)
    if stream:
        r = litellm.stream_chunk_builder(list(r))
    total = json.loads(r.choices[0].message.content)
    assert set(total) == {"total", "unit"} and 0 <= total["total"] <= 999 and total["unit"] in ("apples", "pens")
