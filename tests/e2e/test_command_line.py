"""Starting, refusing, stopping; the lines that model cards print."""

import json
import subprocess
import time

import httpx
from conftest import NIBBLE, Server


def run(*args, stdin=""):
    return subprocess.run([NIBBLE, *args], input=stdin, capture_output=True, text=True, timeout=120)


def test_flags_of_a_model_card_start_unchanged():
    began = time.monotonic()
    s = Server("--model-path", "demo", "--kv-cache-dtype", "fp8_e4m3", "--attention-backend", "triton", "--reasoning-parser", "gemma4", "--tool-call-parser", "gemma4", "--mem-fraction-static", "0.85")
    r = httpx.post(s.url + "/v1/chat/completions", json={"model": "default", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})
    first_token = time.monotonic() - began
    assert r.status_code == 200 and first_token < 5, first_token
    assert any("has no effect" in line for line in s.log)
    assert s.stop() == 0


def test_all_problems_are_named_at_once():
    r = run("serve", "--prot", "1", "--tp-size", "2", "--speculative-algorithm", "NEXTN", "--reasoning-parser", "qwen")
    assert r.returncode == 2 and r.stderr.count("error:") == 4
    assert "did you mean --port" in r.stderr


def test_a_taken_port_is_refused_before_loading():
    s = Server()
    r = run("serve", "--port", str(s.port))
    assert r.returncode != 0 and "cannot listen" in r.stderr
    s.stop()


def test_help_fits_the_terminal():
    r = run("serve", "--help")
    assert r.returncode == 0 and all(len(line) <= 80 for line in r.stdout.splitlines())


def test_missing_models_say_where_was_looked():
    r = run("serve", "--model-path", "org/none", "--port", "0")
    assert r.returncode == 2 and "models--org--none" in r.stderr


def test_inspect_speaks_json_lines():
    r = run("inspect", "tokens", "demo", stdin='{"text": "Hello"}\n{"ids": [2, 107]}\n{}\n')
    lines = [json.loads(line) for line in r.stdout.splitlines()]
    assert lines[0]["text"] == "Hello" and "error" in lines[2]
    r = run("inspect", "message", "demo", stdin=json.dumps({"text": "<|tool_call>call:f{a:1}<tool_call|>", "chunks": ["<|tool_", "call>call:f{a:1}<tool_call|>"]}) + "\n")
    assert json.loads(r.stdout)["tool_calls"] == [{"name": "f", "arguments": '{"a": 1}'}]
    r = run("inspect", "generate", "demo", stdin='{"messages": [{"role": "user", "content": "Hello"}], "max_new_tokens": 20}\n')
    assert "Hello" in json.loads(r.stdout)["text"]
