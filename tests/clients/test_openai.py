import json

import openai
import pydantic
import pytest
from conftest import ANSWER, PROBLEM, WEATHER, WEATHER_SCHEMA

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Current weather of a city", "parameters": WEATHER_SCHEMA}}]


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none")


def test_chat(client):
    r = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": PROBLEM}], temperature=0)
    assert r.choices[0].message.content.endswith(ANSWER)


def test_stream(client):
    with client.chat.completions.stream(model="demo", messages=[{"role": "user", "content": PROBLEM}], temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content.endswith(ANSWER)


def test_tools(client):
    r = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": WEATHER}], tools=TOOLS, temperature=0)
    assert json.loads(r.choices[0].message.tool_calls[0].function.arguments) == {"city": "Rome"}


def test_responses(client):
    assert client.responses.create(model="demo", input=PROBLEM, temperature=0).output_text.endswith(ANSWER)
    events = list(client.responses.create(model="demo", input=PROBLEM, temperature=0, stream=True))
    assert events[-1].response.output_text.endswith(ANSWER)
    call = client.responses.create(model="demo", input=WEATHER, temperature=0, tools=[{"type": "function", "name": "get_weather", "description": "Current weather of a city", "parameters": WEATHER_SCHEMA, "strict": False}]).output[0]
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Rome"}


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="demo", messages=[])
    assert error.value.param == "messages" and error.value.code == "invalid_value"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


class Total(pydantic.BaseModel):
    total: int = pydantic.Field(ge=0, le=999)
    unit: str = pydantic.Field(max_length=12)


def test_structured_output(client):
    r = client.chat.completions.parse(model="demo", messages=[{"role": "user", "content": PROBLEM}], response_format=Total, temperature=0, max_tokens=200)
    assert isinstance(r.choices[0].message.parsed, Total)
    assert isinstance(client.responses.parse(model="demo", input=PROBLEM, text_format=Total, temperature=0, max_output_tokens=200).output_parsed, Total)
