import instructor
import openai
import pydantic
import pytest
from conftest import ANSWER, PROBLEM, WEATHER


class Total(pydantic.BaseModel):
    total: int = pydantic.Field(ge=0, le=999)
    unit: str = pydantic.Field(max_length=12)


class Weather(pydantic.BaseModel):
    """Current weather of a city"""

    city: str = pydantic.Field(max_length=16)


def client(server, mode):
    return instructor.from_openai(openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0), mode=mode)


def ask(server, mode, model, text, **kwargs):
    return client(server, mode).chat.completions.create(model="demo", messages=[{"role": "user", "content": text}], response_model=model, temperature=0, max_tokens=200, max_retries=0, **kwargs)


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA], ids=lambda m: m.name)
def test_structured_output(server, mode):
    assert isinstance(ask(server, mode, Total, PROBLEM), Total)


def test_tools(server):
    assert ask(server, instructor.Mode.TOOLS, Weather, WEATHER).city == "Rome"


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA], ids=lambda m: m.name)
def test_stream(server, mode):
    parts = list(client(server, mode).chat.completions.create_partial(model="demo", messages=[{"role": "user", "content": PROBLEM}], response_model=Total, temperature=0, max_tokens=200, max_retries=0))
    assert len(parts) > 1 and Total.model_validate(parts[-1].model_dump())


def test_chat_without_a_model(server):
    r = ask(server, instructor.Mode.TOOLS, None, PROBLEM)
    assert r.choices[0].message.content.endswith(ANSWER)
