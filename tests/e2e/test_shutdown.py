"""Signals, and restarts behind a proxy that lose nothing."""
import http.client
import http.server
import json
import signal
import threading
import time

import httpx

from conftest import Server

LONG = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 600, "ignore_eos": True, "stream": True, "n": 4}


class Stream(threading.Thread):
    """A stream in the background: what it got, and whether it ended as it should."""

    def __init__(self, server, **fields):
        super().__init__()
        self.server, self.body, self.lines, self.finishes, self.first = server, {**LONG, **fields}, 0, [], threading.Event()
        self.done = False
        self.start()

    def run(self):
        with httpx.stream("POST", self.server.url + "/v1/chat/completions", json=self.body, timeout=120) as r:
            for line in r.iter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: {"):
                    self.lines += 1
                    self.first.set()
                    self.finishes += [c["finish_reason"] for c in json.loads(line[6:])["choices"] if c["finish_reason"]]


def test_sigterm_lets_running_requests_finish():
    s = Server("--shutdown-timeout", "120")  # no request is cut off, also in a program that sanitizers slow down
    streams = [Stream(s) for _ in range(4)]
    assert all(stream.first.wait(30) for stream in streams)
    idle = http.client.HTTPConnection("127.0.0.1", s.port, timeout=30)
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    if s.process.poll() is None:
        try:
            idle.request("GET", "/ready")
            response = idle.getresponse()
            assert response.status == 503 and response.headers["Connection"] == "close"
            refused = httpx.post(s.url + "/v1/completions", json={"prompt": "x"})
            assert refused.status_code == 503 and refused.headers["Retry-After"] and refused.json()["error"]["code"] == "unavailable"
        except (OSError, httpx.TransportError, http.client.HTTPException):
            pass  # it was done already
    for stream in streams:
        stream.join(60)
    assert s.process.wait(timeout=60) == 0
    assert all(stream.done and stream.finishes == ["length"] * 4 for stream in streams)


def test_requests_that_take_too_long_end_with_abort():
    s = Server("--shutdown-timeout", "0")
    stream = Stream(s, max_tokens=1800)
    assert stream.first.wait(30)
    began = time.monotonic()
    assert s.stop() == 0 and time.monotonic() - began < 15
    stream.join(30)
    assert stream.done and stream.finishes == ["abort"] * 4
    assert any("cut off (--shutdown-timeout)" in line for line in s.log)


def test_a_second_signal_ends_at_once():
    s = Server("--shutdown-delay", "30")
    s.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert s.process.poll() is None
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(timeout=10) == 143


def test_sighup_does_nothing():
    s = Server()
    for _ in range(3):
        s.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert httpx.get(s.url + "/health").status_code == 200
    assert s.stop() == 0


class Balancer(http.server.ThreadingHTTPServer):
    """A proxy as one puts in front: probes /ready, sends to who is ready, and tries the next one where it gets a 503 or no connection at all."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.backends, self.up = [], set()
        threading.Thread(target=self.serve_forever, daemon=True).start()
        threading.Thread(target=self.probe, daemon=True).start()

    def probe(self):
        while True:
            for backend in list(self.backends):
                try:
                    good = httpx.get(backend.url + "/ready", timeout=5).status_code == 200
                except httpx.TransportError:
                    good = False
                (self.up.add if good else self.up.discard)(backend)
            time.sleep(0.1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for backend in sorted(self.server.up, key=lambda b: b.port):
            connection = http.client.HTTPConnection("127.0.0.1", backend.port, timeout=60)
            try:
                connection.request("POST", self.path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
            except OSError:
                continue
            if response.status == 503:
                continue
            self.send_response(response.status)
            self.end_headers()
            while piece := response.read1(65536):
                self.wfile.write(piece)
            return
        self.send_error(502)


def test_restarts_behind_a_proxy_lose_no_request():
    balancer = Balancer()
    url = f"http://127.0.0.1:{balancer.server_address[1]}/v1/chat/completions"
    flags = ("--shutdown-delay", "1", "--random-seed", "1")
    servers = [Server(*flags)]
    balancer.backends.append(servers[0])
    while not balancer.up:
        time.sleep(0.05)
    over, results = threading.Event(), []

    def client(i):
        while not over.is_set():
            stream = i % 2 == 0
            r = httpx.post(url, json={"messages": [{"role": "user", "content": f"Tom has {i} apples. Tom buys 8 more apples. How many apples does Tom have now?"}], "max_tokens": 40, "ignore_eos": True,
                                      "stream": stream}, timeout=60)
            whole = r.text.rstrip().endswith("data: [DONE]") if stream else r.status_code == 200 and r.json()["choices"][0]["finish_reason"] == "length"
            results.append((r.status_code, whole))

    clients = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for c in clients:
        c.start()
    for _ in range(2):  # a new process takes over from the old one, twice
        fresh = Server(*flags)
        servers.append(fresh)
        balancer.backends.append(fresh)
        while fresh not in balancer.up:
            time.sleep(0.05)
        old = servers[-2]
        served = len(results)
        assert old.stop() == 0
        balancer.backends.remove(old)
        balancer.up.discard(old)
        while len(results) < served + 12:
            time.sleep(0.05)
    over.set()
    for c in clients:
        c.join(60)
    assert servers[-1].stop() == 0
    assert len(results) > 24 and all(result == (200, True) for result in results), [r for r in results if r != (200, True)]
    balancer.shutdown()
