"""/v1/responses with the openai package: input forms, tools, thinking, events; what would need a store is refused."""
import json

import httpx
import pytest

PROBLEM = "Tom has 23 apples. Tom buys 48 more apples. How many apples does Tom have now?"
TOOLS = [{"type": "function", "name": "get_weather", "description": "Current weather of a city", "strict": False, "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "name of the city"}}, "required": ["city"]}}]


def ask(client, text, **kwargs):
    return client.responses.create(model="default", input=text, temperature=0, max_output_tokens=kwargs.pop("max_output_tokens", 150), **kwargs)


def test_text_in_text_out(client):
    r = ask(client, PROBLEM)
    assert r.status == "completed" and r.output_text.endswith("The answer is 71.")
    assert r.usage.total_tokens == r.usage.input_tokens + r.usage.output_tokens


def test_the_same_prompt_as_chat(client):
    chat = client.chat.completions.create(model="default", temperature=0, max_tokens=150, messages=[{"role": "system", "content": "You are a calculator."}, {"role": "user", "content": PROBLEM}])
    r = ask(client, PROBLEM, instructions="You are a calculator.")
    assert r.output_text == chat.choices[0].message.content and r.usage.input_tokens == chat.usage.prompt_tokens


def test_items_as_input(client):
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Who are you?"}]},
             {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I am a demo.", "annotations": []}], "id": "msg_1", "status": "completed"},
             {"role": "user", "content": PROBLEM}]
    chat = client.chat.completions.create(model="default", temperature=0, max_tokens=150, messages=[
        {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am a demo."}, {"role": "user", "content": PROBLEM}])
    r = ask(client, items)
    assert r.output_text == chat.choices[0].message.content and r.usage.input_tokens == chat.usage.prompt_tokens


def test_thinking_comes_as_an_item_of_its_own(client):
    r = ask(client, "What is 345 + 88?", reasoning={"effort": "medium"})
    assert [item.type for item in r.output] == ["reasoning", "message"]
    assert r.output[0].content[0].text and "433" in r.output_text and r.usage.output_tokens_details.reasoning_tokens > 0


def test_tools_are_called_and_answered(client):
    r = ask(client, "What is the weather in Rome?", tools=TOOLS)
    call = r.output[0]
    assert call.type == "function_call" and call.name == "get_weather" and json.loads(call.arguments) == {"city": "Rome"}
    items = [{"role": "user", "content": "What is the weather in Rome?"}, call.model_dump(exclude_none=True), {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}]
    assert "21 degrees" in ask(client, items, tools=TOOLS).output_text


def events_of(client, text, **kwargs):
    events = list(ask(client, text, stream=True, **kwargs))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
    return events


def test_a_stream_adds_up_to_the_whole(client):
    whole = ask(client, "What is 345 + 88?", reasoning={"effort": "low"})
    events = events_of(client, "What is 345 + 88?", reasoning={"effort": "low"})
    join = lambda kind: "".join(e.delta for e in events if e.type == kind)
    assert join("response.output_text.delta") == whole.output_text
    assert join("response.reasoning_text.delta") == whole.output[0].content[0].text
    last = events[-1]
    assert last.type == "response.completed" and last.response.output_text == whole.output_text and last.response.usage.output_tokens == whole.usage.output_tokens
    # Every item and part that begins also ends, in order.
    opened = [e.item.id for e in events if e.type == "response.output_item.added"]
    assert opened == [e.item.id for e in events if e.type == "response.output_item.done"] == [item.id for item in last.response.output]
    assert sum(e.type == "response.content_part.added" for e in events) == sum(e.type == "response.content_part.done" for e in events) == 2
    assert [e.text for e in events if e.type == "response.output_text.done"] == [whole.output_text]


def test_streamed_calls(client):
    events = events_of(client, "What is the weather in Rome?", tools=TOOLS)
    added = [e.item for e in events if e.type == "response.output_item.added"]
    assert [i.type for i in added] == ["function_call"] and added[0].name == "get_weather" and added[0].arguments == ""
    arguments = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert json.loads(arguments) == {"city": "Rome"} == json.loads([e.arguments for e in events if e.type == "response.function_call_arguments.done"][0])


def test_a_limit_makes_it_incomplete(client):
    r = ask(client, PROBLEM, max_output_tokens=4)
    assert r.status == "incomplete" and r.incomplete_details.reason == "max_output_tokens" and r.output[0].status == "incomplete"
    events = events_of(client, PROBLEM, max_output_tokens=4)
    assert events[-1].type == "response.incomplete" and events[-1].response.output_text == r.output_text


def test_the_stream_helper_of_the_package(client):
    with client.responses.stream(model="default", input=PROBLEM, temperature=0, max_output_tokens=150) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text and text.endswith("The answer is 71.")


@pytest.mark.parametrize("fields, param", [
    ({"previous_response_id": "resp_1"}, "previous_response_id"), ({"conversation": "conv_1"}, "conversation"), ({"background": True}, "background"), ({"prompt": {"id": "p"}}, "prompt"),
    ({"truncation": "auto"}, "truncation"), ({"input": []}, "input"), ({"input": None}, "input"), ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type"), ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0].image_url"),
    ({"input": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": {}}]}]}, "input[0].content[0].text"), ({"input": [{"type": "reasoning", "content": "x"}]}, "input[0].content"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"), ({"tools": [{"type": "web_search"}]}, "tools[0].type"), ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"), ({"include": ["message.output_text.logprobs"]}, "include"), ({"temperature": "hot"}, "temperature"), ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
])
def test_what_is_refused_is_named(server, fields, param):
    r = httpx.post(server.url + "/v1/responses", json={"input": "Hello", **fields})
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text
    assert r.json()["error"]["message"]


def test_store_is_accepted_and_nothing_is_stored(server):
    r = httpx.post(server.url + "/v1/responses", json={"input": "Hello", "store": True, "max_output_tokens": 4, "include": ["reasoning.encrypted_content"]})
    assert r.status_code == 200 and r.json()["store"] is False
    assert httpx.get(server.url + "/v1/responses/" + r.json()["id"]).status_code == 404
