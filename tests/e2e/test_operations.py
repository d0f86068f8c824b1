"""What an operator relies on: keys, limits, time-outs, the request log, budgets and guards, metrics."""
import http.client
import json
import re
import socket
import subprocess
import time

import httpx
import pytest

from conftest import NIBBLE, REPO, Server

CHAT = {"messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0, "max_tokens": 12}


def chat(server, **fields):
    return httpx.post(server.url + "/v1/chat/completions", json={**CHAT, **fields}, timeout=60)


def metric(server, name, labels=""):
    text = httpx.get(server.url + "/metrics", timeout=30).text
    found = re.search(rf"^{re.escape(name)}{{[^}}]*{re.escape(labels)}[^}}]*}} (\S+)$", text, re.M)
    return float(found[1]) if found else None


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


# ---- keys and browsers ----


@pytest.fixture(scope="module")
def locked():
    s = Server("--api-key", "user-secret", "--admin-api-key", "admin-secret", "--max-request-body-mb", "1", "--max-connections", "8", "--http-keep-alive-timeout", "1", "--http-read-timeout", "1",
               "--http-write-timeout", "1", "--log-requests")
    yield s
    assert s.stop() == 0
    assert not any("user-secret" in line or "admin-secret" in line for line in s.log)


def bearer(key):
    return {"Authorization": "Bearer " + key}


@pytest.mark.parametrize("path, method, key, status", [
    ("/v1/models", "GET", None, 401), ("/v1/models", "GET", "wrong", 401), ("/v1/models", "GET", "user-secre", 401), ("/v1/models", "GET", "user-secret", 200), ("/v1/models/demo", "GET", None, 401),
    ("/server_info", "GET", None, 401), ("/openapi.json", "GET", "user-secret", 200), ("/flush_cache", "POST", "user-secret", 401), ("/flush_cache", "POST", "admin-secret", 200),
    ("/abort_request", "POST", None, 401), ("/health", "GET", None, 200), ("/ready", "GET", None, 200), ("/metrics", "GET", None, 200), ("/v1/chat/completions", "OPTIONS", None, 200),
])
def test_keys_open_what_they_should(locked, path, method, key, status):
    r = httpx.request(method, locked.url + path, headers=bearer(key) if key else {}, timeout=30)
    assert r.status_code == status, r.text
    if status == 401:
        assert r.headers["WWW-Authenticate"] == "Bearer" and r.json()["error"]["code"] == "invalid_api_key"


def test_the_scheme_is_case_insensitive_and_keys_do_not_show(locked):
    assert httpx.get(locked.url + "/v1/models", headers={"Authorization": "bEARER user-secret"}).status_code == 200
    info = httpx.get(locked.url + "/server_info", headers=bearer("user-secret")).text
    assert "secret" not in info and '"api_key":"***"' in info.replace(" ", "")


def test_browsers_may_ask_first(server):
    r = httpx.options(server.url + "/v1/chat/completions", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"})
    assert r.status_code == 200 and r.headers["Access-Control-Allow-Origin"] == "*" and "POST" in r.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in r.headers


# ---- limits and time-outs ----


def test_large_bodies_are_refused(locked):
    r = httpx.post(locked.url + "/v1/completions", content=b"{" + b" " * (2 << 20), headers={**bearer("user-secret"), "Content-Type": "application/json"}, timeout=30)
    assert r.status_code == 413 and r.json()["error"]["code"] == "request_too_large"


def test_large_headers_are_refused(locked):
    with socket.create_connection(("127.0.0.1", locked.port), timeout=20) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * 70000 + b"\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 431")


def seconds_until_closed(server, *pieces):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as s:
        began = time.monotonic()
        for piece in pieces:
            s.sendall(piece)
        while s.recv(4096):
            pass
        return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nConte", b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"],
                         ids=["silent", "idle after a request", "half a header", "half a body"])
def test_connections_that_stall_are_closed(locked, sent):
    assert 0.9 < seconds_until_closed(locked, sent) < 8


def test_a_header_that_trickles_does_not_last_for_ever(locked):
    with socket.create_connection(("127.0.0.1", locked.port), timeout=20) as s:
        s.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(200):
                s.sendall(b"X-A: b\r\n")
                time.sleep(0.1)


def test_a_reader_that_stalls_is_cut_off_and_its_request_ends(locked):
    body = json.dumps({**CHAT, "max_tokens": 400, "n": 64, "ignore_eos": True, "logprobs": True, "top_logprobs": 20, "stream": True, "temperature": 1}).encode()
    aborted = metric(locked, "sglang:num_aborted_requests_total")
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", locked.port))
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer user-secret\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert s.recv(15) == b"HTTP/1.1 200 OK"
        wait_until(lambda: metric(locked, "sglang:num_running_reqs") > 0)
        wait_until(lambda: metric(locked, "sglang:num_running_reqs") == 0, 100)
    assert metric(locked, "sglang:num_aborted_requests_total") > aborted
    assert metric(locked, "sglang:num_used_tokens") == 0


def test_connections_are_limited(locked):
    held = []
    try:
        status = None
        for _ in range(40):
            c = http.client.HTTPConnection("127.0.0.1", locked.port, timeout=20)
            c.request("GET", "/health")
            response = c.getresponse()
            status = response.status
            text = response.read()
            held.append(c)
            if status == 503:
                break
        assert 8 <= len(held) and status == 503 and b"too_many_connections" in text and response.headers["Retry-After"]
    finally:
        for c in held:
            c.close()
    wait_until(lambda: httpx.get(locked.url + "/health").status_code == 200)


# ---- the request log ----


@pytest.mark.parametrize("level, shows_text", [(0, False), (1, False), (2, True), (3, True)])
def test_the_request_log_in_json(tmp_path, level, shows_text):
    s = Server("--log-requests", "--log-requests-level", str(level), "--log-requests-format", "json", "--log-requests-target", str(tmp_path / "log"))
    long = "pens and apples " * 400
    assert chat(s, messages=[{"role": "user", "content": long}], seed=7).status_code == 200
    assert chat(s, temperature=-1).status_code == 400
    with httpx.stream("POST", s.url + "/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60) as r:
        streamed = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in r.iter_lines() if line.startswith("data: {"))
    with httpx.stream("POST", s.url + "/v1/chat/completions", json={**CHAT, "stream": True, "max_tokens": 1500, "ignore_eos": True}, timeout=60, headers={"x-request-id": "gone"}) as r:
        next(r.iter_lines())
    wait_until(lambda: metric(s, "sglang:num_running_reqs") == 0)
    time.sleep(0.5)
    assert s.stop() == 0
    lines = [json.loads(line) for path in (tmp_path / "log").iterdir() for line in path.read_text().splitlines()]
    received = [line for line in lines if line["event"] == "request.received"]
    finished = [line for line in lines if line["event"] == "request.finished"]
    assert len(received) == len(finished) == 4 and {line["rid"] for line in received} == {line["rid"] for line in finished}
    assert [line["status"] for line in finished] == [200, 400, 200, 0] and finished[3]["rid"] == "gone"
    assert "temperature" in finished[1]["error"] and finished[2]["stream"] is True and finished[0]["seconds"] > 0
    assert ("messages" in received[0]["obj"]) == shows_text and ("seed" in received[0]["obj"]) == (level >= 1)
    if shows_text:
        assert (received[0]["obj"]["messages"][0]["content"] == long) == (level == 3)
        assert finished[2]["out"]["text"] == streamed
    else:
        assert all("out" not in line for line in finished)


# ---- budgets and guards ----


def thought_and_answer(message):
    return message["reasoning_content"] or "", message["content"]


@pytest.mark.parametrize("fields", [{"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 8}}, {"reasoning": {"max_tokens": 8}}])
def test_a_thinking_budget_closes_the_thought_and_the_answer_follows(server, fields):
    question = {"messages": [{"role": "user", "content": "What is 345 + 88?"}], "max_tokens": 200}
    free = chat(server, **question, chat_template_kwargs={"enable_thinking": True}).json()
    assert free["usage"]["reasoning_tokens"] > 9
    r = chat(server, **question, **fields).json()
    assert r["usage"]["reasoning_tokens"] == 9  # eight, and the closing marker
    thought, answer = thought_and_answer(r["choices"][0]["message"])
    assert thought and thought_and_answer(free["choices"][0]["message"])[0].startswith(thought)
    assert answer and "channel" not in answer and r["choices"][0]["finish_reason"] == "stop"
    none = chat(server, **question, reasoning={"max_tokens": 0}).json()
    assert none["usage"]["reasoning_tokens"] <= 1 and none["choices"][0]["message"]["content"]


def test_thinking_budgets_are_checked(server):
    for value in (-1, "8", 1.5):
        r = chat(server, chat_template_kwargs={"thinking_budget": value})
        assert r.status_code == 400 and r.json()["error"]["param"] == "chat_template_kwargs.thinking_budget"
    assert chat(server, reasoning={"max_tokens": -1}).json()["error"]["param"] == "reasoning.max_tokens"


def test_replies_that_loop_are_stopped(server):
    token = httpx.post(server.url + "/tokenize", json={"prompt": " apples", "add_special_tokens": False}).json()["tokens"][0]
    looping = {"logit_bias": {str(token): 100}, "max_tokens": 400}
    before = metric(server, "nibble:finished_choices_total", 'reason="repetition"')
    r = chat(server, **looping).json()
    assert r["choices"][0]["finish_reason"] == "length" and r["usage"]["completion_tokens"] == 256
    assert metric(server, "nibble:finished_choices_total", 'reason="repetition"') == before + 1
    for fields in ({"repetition_guard": False}, {"ignore_eos": True}):
        assert chat(server, **looping, **fields).json()["usage"]["completion_tokens"] == 400
    assert httpx.post(server.url + "/v1/completions", json={"prompt": "x", **looping}, timeout=60).json()["usage"]["completion_tokens"] == 400  # raw prompts: as the model goes


# ---- metrics ----

NAMES = """prompt_tokens_total generation_tokens_total cached_tokens_total num_requests_total num_aborted_requests_total num_so_requests_total num_retracted_requests_total
http_requests_total http_responses_total spec_verify_calls_total num_running_reqs num_queue_reqs num_used_tokens token_usage full_token_usage swa_token_usage gen_throughput cache_hit_rate
max_total_num_tokens spec_accept_length spec_accept_rate is_cuda_graph http_requests_active utilization""".split()
HISTOGRAMS = "time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds queue_time_seconds prompt_tokens_histogram generation_tokens_histogram".split()


def test_every_metric_is_there_from_the_start():
    s = Server()
    text = httpx.get(s.url + "/metrics").text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    assert set(types) >= {"sglang:" + n for n in NAMES + HISTOGRAMS} | {"nibble:finished_choices_total", "process_resident_memory_bytes", "process_start_time_seconds", "process_open_fds"}
    samples = re.findall(r"^([a-z0-9_:]+)(?:\{[^\n]*\})? \S+$", text, re.M)
    for name in types:  # every name has a value, but for what comes with the first response
        assert name in samples or f"{name}_count" in samples or name == "sglang:http_responses_total", name
    chat(s)
    httpx.get(s.url + "/nothing/at/all")
    assert metric(s, "sglang:http_responses_total", 'endpoint="/v1/chat/completions",status_code="200"') == 1
    assert metric(s, "sglang:http_requests_total", 'endpoint="other",method="GET"') == 1
    assert metric(s, "sglang:queue_time_seconds_count") >= 1 and metric(s, "nibble:finished_choices_total", 'reason="length"') == 1
    assert s.stop() == 0


# ---- documents that name flags and metrics ----


def exported_names():
    s = Server("--speculative-num-steps", "5")
    chat(s)
    text = httpx.get(s.url + "/metrics").text
    assert s.stop() == 0
    return set(re.findall(r"^([a-z0-9_:]+)(?:\{|\s)", text, re.M))


def test_the_dashboard_and_the_page_name_metrics_that_exist():
    names = exported_names()
    board = json.loads((REPO / "docs/grafana-dashboard.json").read_text())
    expressions = [t["expr"] for p in board["panels"] for t in p.get("targets", [])] + [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    assert len(expressions) > 20
    page = (REPO / "docs/operations.md").read_text()
    used = set(re.findall(r"\b(?:sglang|nibble):[a-z0-9_]+|\bprocess_[a-z_]+", " ".join(expressions)))
    told = set(re.findall(r"`((?:sglang|nibble):[a-z0-9_]+|process_[a-z_]+)`", page))
    assert len(used) > 20 and len(told) > 8
    for name in used | told:
        assert name in names or any(n.startswith(name + "_") for n in names), name


def test_the_page_names_flags_that_exist():
    page = (REPO / "docs/operations.md").read_text()
    known = set(re.findall(r"^  --([a-z0-9-]+)", subprocess.run([NIBBLE, "serve", "--help-all"], capture_output=True, text=True, check=True).stdout, re.M)) | {"config", "help-all"}
    named = {n.removeprefix("no-") for n in re.findall(r"`--([a-z0-9-]+)", page)}
    assert len(named) > 25 and named <= known, named - known
    block = re.search(r"```yaml\n(.*?)```", page, re.S)[1]
    assert {line.split(":")[0] for line in block.splitlines() if line and line[0] != "#"} <= known


def test_the_config_of_the_page_starts(tmp_path):
    page = (REPO / "docs/operations.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", page, re.S)[1].replace("/models/gemma-4-12b-nvfp4", "demo").replace("0.0.0.0", "127.0.0.1").replace("shutdown-delay: 5", "shutdown-delay: 0").replace("log-format: json", "log-format: text")
    (tmp_path / "nibble.yaml").write_text(text)
    s = Server("--config", str(tmp_path / "nibble.yaml"), "--port", "0")  # the command line wins
    assert httpx.get(s.url + "/v1/models", headers=bearer("change-me")).json()["data"][0]["id"] == "gemma"
    assert s.stop() == 0
