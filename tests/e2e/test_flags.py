"""Flags of `serve` that change what clients see."""
import json
import subprocess
import urllib.error
import urllib.request

import pytest

from conftest import NIBBLE, Server


@pytest.fixture(scope="module")
def flagged():
    s = Server(
        "--root-path", "/deep", "--allowed-origins", "https://a.example,https://b.example", "--emit-reasoning-alias", "--stream-response-default-include-usage",
        "--incremental-streaming-output", "--allow-auto-truncate", "--context-length", "256", "--extra-metric-labels", '{"cell": "a\\"b", "rank": 3}',
        "--bucket-inter-token-latency", "0.5,1", "--preferred-sampling-params", '{"max_new_tokens": 5, "temperature": 0}', "--uvicorn-access-log-exclude-prefixes", "/health",
    )
    yield s
    assert s.stop() == 0


def post(server, path, body, headers=None):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})
    return urllib.request.urlopen(request, timeout=60)


def events(response):
    return [json.loads(line[6:]) for line in response if line.startswith(b"data: {")]


CHAT = {"messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0, "max_tokens": 12}


def test_root_path_is_taken_off_and_not_required(flagged):
    for path in ("/deep/v1/chat/completions", "/v1/chat/completions"):
        assert json.load(post(flagged, path, CHAT))["choices"][0]["message"]["content"]


def test_origins(flagged):
    allowed = post(flagged, "/v1/chat/completions", CHAT, {"Origin": "https://b.example"}).headers
    assert allowed["Access-Control-Allow-Origin"] == "https://b.example" and allowed["Vary"] == "Origin"
    assert post(flagged, "/v1/chat/completions", CHAT, {"Origin": "https://c.example"}).headers["Access-Control-Allow-Origin"] is None


def test_reasoning_alias(flagged):
    body = {**CHAT, "chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 40}
    message = json.load(post(flagged, "/v1/chat/completions", body))["choices"][0]["message"]
    assert message["reasoning_content"] and message["reasoning"] == message["reasoning_content"]
    deltas = [e["choices"][0]["delta"] for e in events(post(flagged, "/v1/chat/completions", {**body, "stream": True})) if e["choices"]]
    assert "".join(d["reasoning"] or "" for d in deltas if "reasoning" in d) == message["reasoning"]


def test_usage_ends_streams_unless_told_otherwise(flagged):
    assert events(post(flagged, "/v1/chat/completions", {**CHAT, "stream": True}))[-1]["usage"]["completion_tokens"] > 0
    assert not events(post(flagged, "/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": False}}))[-1].get("usage")


def test_generate_streams_what_is_new_with_preferred_sampling(flagged):
    whole = json.load(post(flagged, "/generate", {"text": "Tom has 3 apples."}))
    assert whole["meta_info"]["completion_tokens"] == 5
    parts = events(post(flagged, "/generate", {"text": "Tom has 3 apples.", "stream": True}))
    assert len(parts) > 1 and "".join(p["text"] for p in parts) == whole["text"]
    assert sum((p["output_ids"] for p in parts), []) == whole["output_ids"]


def test_long_prompts_are_cut(flagged):
    reply = json.load(post(flagged, "/v1/completions", {"model": "demo", "prompt": "apples and pens " * 200, "max_tokens": 50}))
    assert reply["usage"]["prompt_tokens"] == 255 and reply["usage"]["completion_tokens"] == 1


def test_metric_labels_and_buckets(flagged):
    text = urllib.request.urlopen(flagged.url + "/metrics", timeout=10).read().decode()
    assert 'cell="a\\"b",rank="3"' in text
    assert 'sglang:inter_token_latency_seconds_bucket{model_name="demo",cell="a\\"b",rank="3",le="0.5"}' in text


def test_metrics_can_be_off():
    s = Server("--disable-metrics")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(s.url + "/metrics", timeout=10)
    assert s.stop() == 0 and error.value.code == 404


def test_problems_are_told_before_anything_is_loaded():
    done = subprocess.run([NIBBLE, "serve", "--port", "99999", "--enable-lora", "--prt", "1"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) >= 3 and any("did you mean --port" in line for line in lines)
