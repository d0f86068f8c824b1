import asyncio
from typing import Literal

import pydantic
import pytest
from conftest import ANSWER, PROBLEM, WEATHER
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.openai import OpenAIProvider

SETTINGS = {"temperature": 0, "max_tokens": 200}


class Total(pydantic.BaseModel):
    # No limits of numbers and lengths: for Anthropic the package moves them into descriptions, which the demo model does not read.
    more: bool
    unit: Literal["apples", "pens"]


@pytest.fixture(params=["chat", "responses", "messages"])
def model(server, request):
    if request.param == "messages":
        # What a name that the package does not know cannot tell it: output_config.format is served.
        return AnthropicModel("demo", provider=AnthropicProvider(base_url=server.url, api_key="none"), profile=ModelProfile(supports_json_schema_output=True))
    return {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[request.param]("demo", provider=OpenAIProvider(base_url=server.url + "/v1", api_key="none"))


def test_chat(model):
    r = Agent(model, model_settings=SETTINGS).run_sync(PROBLEM)
    assert r.output.endswith(ANSWER) and r.usage.output_tokens > 0


async def streamed(agent):
    async with agent.run_stream(PROBLEM) as r:
        parts = [part async for part in r.stream_text(delta=True, debounce_by=None)]
    return parts


def test_stream(model):
    parts = asyncio.run(streamed(Agent(model, model_settings=SETTINGS)))
    assert len(parts) > 5 and "".join(parts).endswith(ANSWER)


def test_tools(model):
    asked = []
    agent = Agent(model, model_settings=SETTINGS)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Current weather of a city"""
        asked.append(city)
        return "sunny"

    r = agent.run_sync(WEATHER)
    assert asked == ["Rome"] and r.output


@pytest.mark.parametrize("kind", [NativeOutput, ToolOutput])
def test_structured_output(model, kind):
    assert isinstance(Agent(model, output_type=kind(Total), model_settings=SETTINGS).run_sync(PROBLEM).output, Total)
