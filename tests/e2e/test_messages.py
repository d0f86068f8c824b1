"""/v1/messages with the anthropic package: blocks, tools, thinking, streams, token counts, errors."""
import anthropic
import httpx
import pytest

from conftest import Server

PROBLEM = "Tom has 23 apples. Tom buys 48 more apples. How many apples does Tom have now?"
TOOLS = [{"name": "get_weather", "description": "Current weather of a city", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string", "description": "name of the city"}}, "required": ["city"]}}]


@pytest.fixture(scope="module")
def claude(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def ask(claude, text, **kwargs):
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    return claude.messages.create(model="default", max_tokens=kwargs.pop("max_tokens", 150), messages=messages, extra_body={"temperature": 0, **kwargs.pop("extra_body", {})}, **kwargs)


def test_text_in_text_out(claude, client):
    r = ask(claude, PROBLEM)
    assert r.content[0].type == "text" and r.content[0].text.endswith("The answer is 71.")
    assert r.stop_reason == "end_turn" and r.role == "assistant" and r.type == "message"
    chat = client.chat.completions.create(model="default", temperature=0, max_tokens=150, messages=[{"role": "user", "content": PROBLEM}])
    assert r.usage.input_tokens + r.usage.cache_read_input_tokens == chat.usage.prompt_tokens and r.usage.output_tokens == chat.usage.completion_tokens


def test_system_and_blocks(claude, client):
    blocks = [{"role": "user", "content": [{"type": "text", "text": PROBLEM, "cache_control": {"type": "ephemeral"}}]}]
    r = ask(claude, blocks, system=[{"type": "text", "text": "You are a calculator."}])
    chat = client.chat.completions.create(model="default", temperature=0, max_tokens=150, messages=[{"role": "system", "content": "You are a calculator."}, {"role": "user", "content": PROBLEM}])
    assert r.content[0].text == chat.choices[0].message.content


def test_thinking_blocks_and_their_budget(claude):
    free = ask(claude, "What is 345 + 88?", thinking={"type": "enabled", "budget_tokens": 1024})
    assert [b.type for b in free.content] == ["thinking", "text"] and free.content[0].thinking and "433" in free.content[1].text
    short = ask(claude, "What is 345 + 88?", thinking={"type": "enabled", "budget_tokens": 8})
    assert short.content[0].type == "thinking" and len(short.content[0].thinking) < len(free.content[0].thinking)
    assert short.content[-1].type == "text" and short.content[-1].text and short.stop_reason == "end_turn"
    assert [b.type for b in ask(claude, "What is 345 + 88?", thinking={"type": "disabled"}).content] == ["text"]


def test_tools_are_called_and_answered(claude):
    r = ask(claude, "What is the weather in Rome?", tools=TOOLS)
    call = r.content[-1]
    assert r.stop_reason == "tool_use" and call.type == "tool_use" and call.name == "get_weather" and call.input == {"city": "Rome"}
    messages = [{"role": "user", "content": "What is the weather in Rome?"}, {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in r.content]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "21 degrees"}]}]}]
    assert "21 degrees" in ask(claude, messages, tools=TOOLS).content[0].text


def test_a_stream_adds_up_to_the_whole(claude):
    extra = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    whole = ask(claude, "What is 345 + 88?", **extra)
    kinds = []
    with claude.messages.stream(model="default", max_tokens=150, messages=[{"role": "user", "content": "What is 345 + 88?"}], extra_body={"temperature": 0}, **extra) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_message()
    assert [(b.type, getattr(b, "text", None) or b.thinking) for b in final.content] == [(b.type, getattr(b, "text", None) or b.thinking) for b in whole.content]
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"


def test_streamed_calls(claude):
    with claude.messages.stream(model="default", max_tokens=150, messages=[{"role": "user", "content": "What is the weather in Rome?"}], tools=TOOLS, extra_body={"temperature": 0}) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use" and final.content[-1].input == {"city": "Rome"}


def test_raw_events_have_names(server):
    body = {"model": "default", "max_tokens": 30, "temperature": 0, "stream": True, "messages": [{"role": "user", "content": PROBLEM}]}
    with httpx.stream("POST", server.url + "/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"}) as r:
        lines = list(r.iter_lines())
    names = [line[7:] for line in lines if line.startswith("event: ")]
    assert names[:2] == ["message_start", "content_block_start"] and names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert not any("[DONE]" in line for line in lines)


def test_stop_sequences_limits_and_prefill(claude):
    r = ask(claude, PROBLEM, stop_sequences=["The answer"])
    assert r.stop_reason == "stop_sequence" and r.stop_sequence == "The answer" and "The answer" not in r.content[0].text
    assert ask(claude, PROBLEM, max_tokens=3).stop_reason == "max_tokens"
    whole = ask(claude, PROBLEM).content[0].text
    begun = ask(claude, [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": whole[:20]}]).content[0].text
    assert whole[:20] + begun == whole


def test_tokens_are_counted(claude):
    counted = claude.messages.count_tokens(model="default", messages=[{"role": "user", "content": PROBLEM}], tools=TOOLS).input_tokens
    used = ask(claude, PROBLEM, tools=TOOLS, max_tokens=1).usage
    assert counted == used.input_tokens + used.cache_read_input_tokens


@pytest.mark.parametrize("fields, word", [
    ({"max_tokens": None}, "max_tokens"), ({"messages": []}, "messages"), ({"messages": [{"role": "tool", "content": "x"}]}, "role"), ({"messages": [{"role": "user"}]}, "content"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "video"), ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "web_search_20250305"),
    ({"tool_choice": {"type": "some"}}, "some"), ({"thinking": {"type": "on"}}, "on"), ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"), ({"stop_sequences": "x"}, "stop_sequences"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]}, "file"),
])
def test_errors_have_anthropics_shape(server, fields, word):
    r = httpx.post(server.url + "/v1/messages", json={"model": "default", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], **fields})
    body = r.json()
    assert r.status_code == 400 and body["type"] == "error" and body["error"]["type"] == "invalid_request_error" and word in body["error"]["message"], r.text
    assert body["request_id"] == r.headers["request-id"]


def test_the_key_may_come_as_x_api_key():
    s = Server("--api-key", "secret")
    good = anthropic.Anthropic(base_url=s.url, api_key="secret", max_retries=0)
    assert good.messages.create(model="default", max_tokens=3, messages=[{"role": "user", "content": "Hello"}]).content
    with pytest.raises(anthropic.AuthenticationError) as error:
        anthropic.Anthropic(base_url=s.url, api_key="wrong", max_retries=0).messages.create(model="default", max_tokens=3, messages=[{"role": "user", "content": "Hello"}])
    assert error.value.body["error"]["type"] == "authentication_error"
    assert s.stop() == 0
