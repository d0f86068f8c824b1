import pydantic
import pytest
from conftest import ANSWER, PROBLEM, WEATHER
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str) -> str:
    """Current weather of a city"""
    return f"sunny in {city}"


class Total(pydantic.BaseModel):
    total: int = pydantic.Field(ge=0, le=999)
    unit: str = pydantic.Field(max_length=12)


@pytest.fixture
def chat(server):
    return ChatOpenAI(base_url=server.url + "/v1", api_key="none", model="demo", temperature=0, max_tokens=200, max_retries=0)


def test_chat(chat):
    r = chat.invoke([HumanMessage(PROBLEM)])
    assert r.content.endswith(ANSWER) and r.usage_metadata["total_tokens"] > 0 and r.response_metadata["finish_reason"] == "stop"
    assert chat.invoke([SystemMessage("Answer."), HumanMessage(PROBLEM)]).content.endswith(ANSWER)


def test_stream(chat):
    chunks = list(chat.stream(PROBLEM))
    assert len(chunks) > 5 and "".join(c.content for c in chunks).endswith(ANSWER)


def test_tools(chat):
    asked = HumanMessage(WEATHER)
    with_tools = chat.bind_tools([get_weather])
    r = with_tools.invoke([asked])
    (call,) = r.tool_calls
    assert call["name"] == "get_weather" and call["args"] == {"city": "Rome"}
    done = with_tools.invoke([asked, r, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])])
    assert done.content and not done.tool_calls


def test_tools_streamed(chat):
    whole = None
    for chunk in chat.bind_tools([get_weather]).stream(WEATHER):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [("get_weather", {"city": "Rome"})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat, method):
    r = chat.with_structured_output(Total, method=method).invoke(PROBLEM)
    assert isinstance(r, Total)


def test_responses_route(server):
    chat = ChatOpenAI(base_url=server.url + "/v1", api_key="none", model="demo", temperature=0, max_tokens=200, max_retries=0, use_responses_api=True)
    assert chat.invoke(PROBLEM).text.endswith(ANSWER)
    assert "".join(c.text for c in chat.stream(PROBLEM)).endswith(ANSWER)
