"""Structured output and constrained tool calls, through the OpenAI client and over plain HTTP, with the demo model."""

import concurrent.futures
import json
import re
from typing import Annotated

import httpx
import jsonschema
import pydantic
from conftest import REPO, Server

SCHEMAS = [json.loads(line) for line in (REPO / "tests/data/structured/schemas.jsonl").read_text().splitlines()]
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "email": {"type": ["string", "null"], "maxLength": 20}},
          "required": ["name", "age", "email"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Current weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}}, "required": ["city"]}}}
BOOK = {"type": "function", "function": {"name": "book_table", "strict": True, "parameters": {
    "type": "object", "properties": {"guests": {"type": "integer", "minimum": 1, "maximum": 12}, "name": {"type": "string", "maxLength": 8}, "seat": {"anyOf": [{"enum": ["window", "bar"]}, {"type": "null"}]},
                                     "dishes": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 6}}, "required": ["id"]}, "maxItems": 2}},
    "required": ["guests", "name", "seat", "dishes"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, BOOK, CLOCK]
PARAMETERS = {t["function"]["name"]: t["function"].get("parameters", {"type": "object", "additionalProperties": False}) for t in TOOLS}


def ask(client, text, **kwargs):
    kwargs = {"temperature": 0, "max_tokens": 200, **kwargs}
    return client.chat.completions.create(model="default", messages=[{"role": "user", "content": text}], **kwargs)


def check_call(name, arguments):
    jsonschema.validate(json.loads(arguments), PARAMETERS[name])


def test_json_object(client):
    ended = []  # the demo model was never trained on JSON: in some replies its text finds no end
    for text, seed in [(text, seed) for text in ("Who are you?", "What is 12 + 30?") for seed in range(6)]:
        choice = ask(client, text, response_format={"type": "json_object"}, temperature=1.5, top_p=1.0, seed=seed, extra_body={"top_k": -1}).choices[0]
        assert choice.message.content.lstrip().startswith("{")
        if choice.finish_reason == "stop":
            ended.append(json.loads(choice.message.content))
    assert len(ended) >= 4 and all(isinstance(e, dict) for e in ended) and any(ended), ended


def test_json_schema_whole_and_streamed(client):
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    whole = ask(client, "Make up a person.", response_format=form).choices[0]
    assert whole.finish_reason == "stop"
    jsonschema.validate(json.loads(whole.message.content), PERSON)
    chunks = list(ask(client, "Make up a person.", response_format=form, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.message.content


class Color(pydantic.BaseModel):
    red: int = pydantic.Field(ge=0, le=255)
    name: str = pydantic.Field(max_length=12)
    shades: list[Annotated[str, pydantic.Field(max_length=8)]] = pydantic.Field(max_length=2)


def test_pydantic_models_are_parsed(client):
    r = client.chat.completions.parse(model="default", messages=[{"role": "user", "content": "A color, please."}], response_format=Color, temperature=0, max_tokens=300)
    assert isinstance(r.choices[0].message.parsed, Color)


def test_regex_ebnf_and_structural_tags(client):
    r = ask(client, "Yes or no?", extra_body={"regex": "(yes|no), [a-z]{3,8}\\."}, temperature=1.5)
    assert re.fullmatch("(yes|no), [a-z]{3,8}\\.", r.choices[0].message.content)
    r = ask(client, "Yes or no?", extra_body={"ebnf": 'root ::= "A" digit{2,4} "B"\ndigit ::= [0-9]'}, temperature=1.5)
    assert re.fullmatch("A[0-9]{2,4}B", r.choices[0].message.content)
    tag = {"type": "structural_tag", "structures": [{"begin": "I am<x>", "schema": {"type": "integer", "minimum": 10, "maximum": 99}, "end": "</x>"}], "triggers": ["I am"]}
    r = ask(client, "Who are you?", response_format=tag)  # the demo model begins "I am"
    assert re.match(r"I am<x>[1-9][0-9]</x>", r.choices[0].message.content), r.choices[0].message.content


def test_a_thought_comes_first_where_thinking_is_on(client):
    on = {"chat_template_kwargs": {"enable_thinking": True}}
    r = ask(client, "What is 345 + 88?", extra_body={"regex": "[0-9]{3}", **on}).choices[0].message
    assert re.fullmatch("[0-9]{3}", r.content) and r.reasoning_content
    r = ask(client, "What is the weather in Rome?", tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, extra_body=on).choices[0].message
    assert r.reasoning_content and r.content == ""
    check_call(r.tool_calls[0].function.name, r.tool_calls[0].function.arguments)
    r = ask(client, "What is 345 + 88?", extra_body={"regex": "[0-9]{3}"}).choices[0].message
    assert re.fullmatch("[0-9]{3}", r.content) and not r.reasoning_content


def test_required_named_and_streamed_calls(client):
    r = ask(client, "Who are you?", tools=TOOLS, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert r.finish_reason == "tool_calls" and r.message.content == "" and len(r.message.tool_calls) == 1
    check_call(r.message.tool_calls[0].function.name, r.message.tool_calls[0].function.arguments)
    named = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "book_table"}}, "parallel_tool_calls": False}
    r = ask(client, "Who are you?", **named).choices[0]
    assert r.finish_reason == "tool_calls" and r.message.tool_calls[0].function.name == "book_table"
    check_call("book_table", r.message.tool_calls[0].function.arguments)
    streamed = ""
    for chunk in ask(client, "Who are you?", stream=True, **named):
        for call in chunk.choices[0].delta.tool_calls or []:
            streamed += call.function.arguments or ""
    assert json.loads(streamed) == json.loads(r.message.tool_calls[0].function.arguments)


def test_calls_of_the_models_own_choice_follow_the_declared_parameters(client):
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Current weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "zone": {"type": "integer", "minimum": 40, "maximum": 49}}, "required": ["city", "zone"]}}}
    r = ask(client, "What is the weather in Rome?", tools=[tool]).choices[0]
    arguments = json.loads(r.message.tool_calls[0].function.arguments)  # the model alone gives {"city": "Rome"}
    assert arguments["city"] == "Rome" and 40 <= arguments["zone"] <= 49


def test_a_thousand_calls_at_temperature_one_and_a_half(server):
    valid = calls = cut = 0
    names = set()
    # Left to choose the model calls what is easiest to it.
    choices = ["required", *({"type": "function", "function": {"name": name}} for name in ("book_table", "get_weather"))]

    def batch(seed):
        body = {"messages": [{"role": "user", "content": f"Use a tool ({seed})."}], "tools": TOOLS, "tool_choice": choices[seed % 3], "parallel_tool_calls": False, "temperature": 1.5, "top_k": -1, "top_p": 1.0,
                "n": 64, "seed": seed, "max_tokens": 120}
        r = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=300)
        assert r.status_code == 200, r.text[:300]
        return r.json()["choices"]

    for seed in range(40):
        for choice in batch(seed):
            if choice["finish_reason"] == "length":  # cut off; shown, never as a call to run
                cut += 1
                continue
            assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "", choice
            for call in choice["message"]["tool_calls"]:
                calls += 1
                names.add(call["function"]["name"])
                check_call(call["function"]["name"], call["function"]["arguments"])
                valid += 1
        if calls >= 1000:
            break
    assert calls >= 1000 and valid == calls and names == set(PARAMETERS), (calls, cut, names)


def reply_problem(server, entry, bias):
    """What is wrong with two replies under this schema; None: nothing."""
    strict = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": entry["schema"]}}
    body = {"prompt": "{", "response_format": strict, "temperature": 1.5, "n": 2, "seed": 1, "max_tokens": 200, "logit_bias": bias}
    r = httpx.post(server.url + "/v1/completions", json=body, timeout=300)
    if "refused" in entry:
        error = r.json().get("error", {})
        return None if r.status_code == 400 and f"'{entry['refused']}'" in error["message"] and error["param"] == "response_format.json_schema.schema" else r.text[:300]
    if r.status_code != 200:
        return r.text[:300]
    schema = entry["schema"]
    if entry["name"] == "nullable":  # OpenAPI's; the validator does not know it
        schema = {**schema, "type": ["string", "null"]}
    validator = jsonschema.Draft7Validator if "draft-07" in json.dumps(schema) else jsonschema.Draft202012Validator
    for choice in r.json()["choices"]:
        if choice["finish_reason"] == "length":
            continue
        try:
            problem = next(validator(schema, format_checker=validator.FORMAT_CHECKER).iter_errors(json.loads(choice["text"])), None)
        except ValueError as error:
            problem = error
        if problem:
            return f"{choice['text'][:200]!r}: {problem}"
    return None if any(c["finish_reason"] == "stop" for c in r.json()["choices"]) else "unfinished"


def test_three_hundred_schemas_are_kept_to_or_refused_by_name(server):
    assert len(SCHEMAS) == 300
    # Strings would hardly end at this temperature.
    ends = httpx.post(server.url + "/tokenize", json={"prompt": ['"', "}", "]"], "add_special_tokens": False}).json()["tokens"]
    bias = {str(ids[0]): 10 for ids in ends}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        problems = dict(zip((e["name"] for e in SCHEMAS), pool.map(lambda e: reply_problem(server, e, bias), SCHEMAS)))
    unfinished = [name for name, problem in problems.items() if problem == "unfinished"]
    assert {name: p for name, p in problems.items() if p and p != "unfinished"} == {}
    assert len(unfinished) <= 20, unfinished  # strings without a limit


def test_refusals_name_the_field(server):
    base = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    for body, param in (
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"not": {}}}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "structural_tag", "structures": [], "triggers": ["a"]}}, "response_format"),
        ({"regex": "(a"}, "regex"), ({"ebnf": "root ::= x"}, "ebnf"), ({"regex": "a", "ebnf": 'root ::= "a"'}, "ebnf"), ({"regex": ""}, "regex"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "thing"}}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "propertyNames": {}}}}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": "required", "regex": "a"}, "tool_choice"),
        # Far too much, one way or another.
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["x" * 1000 + str(i) for i in range(2000)]}}}}, "response_format.json_schema.schema"),
    ):
        r = httpx.post(server.url + "/v1/chat/completions", json={**base, **body}, timeout=60)
        assert r.status_code == 400 and r.json()["error"]["param"] == param, (body if len(str(body)) < 500 else "large", r.status_code, r.text[:300])


def test_keywords_left_out_are_said_once_where_not_strict(server):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 77}}}, "required": ["a"], "additionalProperties": False}
    for _ in range(2):
        r = httpx.post(server.url + "/v1/completions", json={"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, "max_tokens": 100}, timeout=60)
        assert set(json.loads(r.json()["choices"][0]["text"])) == {"a"}
    assert sum("not at #/properties/a" in line for line in server.log) == 1


def test_native_route_and_metrics(server):
    before = float(re.search(r"sglang:num_so_requests_total\{.*\} (\S+)", httpx.get(server.url + "/metrics").text)[1])
    r = httpx.post(server.url + "/generate", json={"text": "x", "sampling_params": {"json_schema": json.dumps(PERSON), "max_new_tokens": 400, "temperature": 0}}, timeout=60).json()
    jsonschema.validate(json.loads(r["text"]), PERSON)
    after = float(re.search(r"sglang:num_so_requests_total\{.*\} (\S+)", httpx.get(server.url + "/metrics").text)[1])
    assert after == before + 1


def test_a_server_without_grammars_refuses_what_needs_them():
    s = Server("--grammar-backend", "none")
    try:
        base = {"messages": [{"role": "user", "content": "What is the weather in Rome?"}], "max_tokens": 40, "temperature": 0}
        assert httpx.post(s.url + "/v1/chat/completions", json={**base, "regex": "a"}, timeout=60).status_code == 400
        assert httpx.post(s.url + "/v1/chat/completions", json={**base, "tools": TOOLS, "tool_choice": "required"}, timeout=60).status_code == 400
        free = httpx.post(s.url + "/v1/chat/completions", json={**base, "tools": [WEATHER]}, timeout=60).json()
        assert free["choices"][0]["finish_reason"] == "tool_calls"
    finally:
        s.stop()


def test_compact_json():
    s = Server("--constrained-json-disable-any-whitespace")
    try:
        body = {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": PERSON}}, "max_tokens": 120, "temperature": 1.0}
        text = httpx.post(s.url + "/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
        assert re.fullmatch(r'\{"name": ".*", "age": \d+, "email": .*\}', text), text
    finally:
        s.stop()
