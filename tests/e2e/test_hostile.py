"""Clients that want to hurt: requests whose cost would grow faster than their size, and bytes that are no HTTP. Each is refused or answered in little time, and others go on."""

import json
import socket
import time

import httpx
import pytest

HI = [{"role": "user", "content": "Hi"}]


def post(server, body, path="/v1/chat/completions"):
    return httpx.post(server.url + path, content=body if isinstance(body, (str, bytes)) else json.dumps(body), headers={"Content-Type": "application/json"}, timeout=60)


def call(arguments):
    return [*HI, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]}, {"role": "tool", "tool_call_id": "1", "content": "x"}]


def nested(n):
    return '{"a":' + "[" * n + "]" * n + "}"


WIDE = {str(i): 1 for i in range(200_000)}


@pytest.mark.parametrize(
    "path, body, param",
    [
        ("/v1/chat/completions", "[" * 1_000_000, None),
        ("/v1/chat/completions", {"messages": HI, "logit_bias": WIDE}, None),  # an object with an order: each member compared with all before it
        ("/v1/chat/completions", {"messages": call(json.dumps(WIDE))}, "messages[1].tool_calls[0].function.arguments"),
        ("/v1/chat/completions", {"messages": call(nested(1_000_000))}, "messages[1].tool_calls[0].function.arguments"),
        ("/v1/completions", {"prompt": "a", "json_schema": nested(1_000_000)}, "json_schema"),  # JSON within JSON: the walk over it is a recursion
        ("/generate", {"text": "a", "sampling_params": {"json_schema": nested(100_000)}}, "sampling_params.json_schema"),
        ("/v1/chat/completions", {"messages": [*HI, {"role": "assistant", "tool_calls": []}, *[{"role": "tool", "content": "x"}] * 20_000]}, "messages[2].tool_call_id"),
        ("/v1/chat/completions", {"messages": HI, "stop": ["a"] * 1_000_000}, "stop"),
        ("/v1/chat/completions", {"messages": HI, "n": 10**9}, "n"),
        ("/v1/chat/completions", {"messages": HI, "regex": "((.*){0,200}){0,200}"}, "regex"),
        ("/v1/chat/completions", {"messages": HI, "regex": "(" * 100_000 + ")" * 100_000}, "regex"),
        ("/v1/chat/completions", {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"$ref": "#"}, "strict": True}}}, "response_format.json_schema.schema"),
        ("/v1/chat/completions", {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}], "tool_choice": "required"}, "tools"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_what_would_cost_too_much_is_refused_soon_and_named(server, path, body, param):
    began = time.monotonic()
    got = post(server, body, path)
    assert got.status_code == 400, (got.status_code, got.text[:300])
    assert time.monotonic() - began < 15
    if path != "/generate":
        assert got.json()["error"]["param"] == param, got.text[:300]
    assert len(got.text) < 2000  # what is refused is not sent back whole
    assert post(server, {"messages": HI, "max_tokens": 2}).status_code == 200


def exchange(server, data, half_close=False):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as c:
        c.sendall(data)
        if half_close:
            c.shutdown(socket.SHUT_WR)
        got = b""
        while part := c.recv(65536):
            got += part
        return got


def request(body, *headers, method="POST", path="/v1/chat/completions"):
    data = json.dumps(body).encode() if body is not None else b""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers, "", ""]).encode() + data


@pytest.mark.parametrize(
    "data, status",
    [
        (b"\x16\x03\x01\x02\x00\x01\x00 TLS?\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET /he\x00alth HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000 + b"\r\n\r\n", 431),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n1234567", 400),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n", 413),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc\r\n", 413),
        (b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", 400),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (request(None, "Connection: close", method="TRACE"), 405),
        (request(None, "Connection: close", "Upgrade: websocket", method="GET"), 405),
    ],
)
def test_bytes_that_are_no_request_are_answered_and_the_connection_ends(server, data, status):
    assert int(exchange(server, data).split()[1]) == status


def test_many_requests_in_one_write_are_answered_in_order(server):
    got = exchange(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2000 + request({"messages": HI, "max_tokens": 2}, "Connection: close"))
    assert got.count(b"HTTP/1.1 200 OK") == 2001 and got.rfind(b"chat.completion") > got.rfind(b"Content-Length: 0")


def test_a_client_that_has_said_all_still_gets_its_answer(server):
    assert exchange(server, request({"messages": HI, "max_tokens": 30}), half_close=True).startswith(b"HTTP/1.1 200 OK")
    assert b"[DONE]" in exchange(server, request({"messages": HI, "max_tokens": 30, "stream": True}), half_close=True)
    assert exchange(server, b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", half_close=True) == b""


def test_a_path_cannot_write_lines_into_the_log(server):
    exchange(server, b"GET /v1/models/%0a[2026-01-01]%20ERROR%20forged%1b[31m%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    deadline = time.monotonic() + 5
    while not (line := next((x for x in server.log if "forged" in x), "")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert '"GET /v1/models/%0A[2026-01-01]%20ERROR%20forged%1B[31m%FF HTTP/1.1" 404 Not Found' in line, line
    assert line.split(" INFO ")[1].split(" - ")[0].startswith("127.0.0.1:"), line
