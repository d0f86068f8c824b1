"""Two replicas behind sglang-router: one is killed and started again under load. Opt-in: `./dev replicas` installs the router, runs this, and stores the counts in bench/results/replicas.json."""

import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import httpx
import pytest
from conftest import REPO, Server

ROUTER = pathlib.Path(os.environ.get("NIBBLE_ROUTER", REPO / ".venv/router/bin/sglang-router"))
pytestmark = pytest.mark.skipif(not ROUTER.exists(), reason="sglang-router is not installed; ./dev replicas does it")
STREAMS, SECONDS = 16, 12


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def worker(port):
    return Server("--model-path", "demo", "--port", str(port), "--threads", "1")


class Router:
    def __init__(self, workers, log):
        self.port, metrics = free_port(), free_port()
        self.process = subprocess.Popen(
            [ROUTER, "launch", "--host", "127.0.0.1", "--port", str(self.port), "--worker-urls", *[w.url for w in workers], "--policy", "round_robin",
             "--health-check-interval-secs", "1", "--health-failure-threshold", "1", "--health-success-threshold", "1", "--cb-timeout-duration-secs", "2",
             "--prometheus-port", str(metrics), "--log-level", "warn"],
            stdout=log, stderr=subprocess.STDOUT)
        self.url = f"http://127.0.0.1:{self.port}"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if httpx.get(self.url + "/health").status_code == 200 and httpx.get(self.url + "/v1/models").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, "the router ended"
            time.sleep(0.2)
        raise AssertionError("the router is not ready")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Load:
    """STREAMS clients that ask one question after another, every other one streamed. Which of the workers answers is not theirs to know."""

    def __init__(self, url):
        self.url, self.stopped = url, threading.Event()
        self.lock, self.done, self.running = threading.Lock(), [], {}  # done: (client, began, ended, error)
        self.threads = [threading.Thread(target=self.client, args=(i,)) for i in range(STREAMS)]
        for t in self.threads:
            t.start()

    def client(self, number):
        with httpx.Client(timeout=60) as client:
            for turn in range(100000):
                if self.stopped.is_set():
                    return
                body = {"model": "default", "messages": [{"role": "user", "content": f"What is {100 + number} + {turn % 100}?"}], "temperature": 0, "max_tokens": 60, "ignore_eos": True}
                began, error = time.monotonic(), None
                with self.lock:
                    self.running[number] = began
                try:
                    if number % 2:
                        with client.stream("POST", self.url + "/v1/chat/completions", json=body | {"stream": True}) as r:
                            text = r.read().decode()
                            error = None if r.status_code == 200 and "[DONE]" in text else f"HTTP {r.status_code}: {text[-200:]}"
                    else:
                        r = client.post(self.url + "/v1/chat/completions", json=body)
                        error = None if r.status_code == 200 and r.json()["choices"][0]["message"]["content"] else f"HTTP {r.status_code}: {r.text[:200]}"
                except httpx.HTTPError as e:
                    error = repr(e)
                with self.lock:
                    self.done.append((number, began, time.monotonic(), error))
                    del self.running[number]

    def stop(self):
        self.stopped.set()
        for t in self.threads:
            t.join()


def served(w):
    for line in httpx.get(w.url + "/metrics").text.splitlines():
        if line.startswith("sglang:num_requests_total{") or line.startswith("sglang:num_requests_total "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no count of requests")


def test_a_replica_dies_and_comes_back_under_load(tmp_path):
    workers = [worker(free_port()), worker(free_port())]
    with open(tmp_path / "router.log", "wb") as log:
        router = Router(workers, log)
        load = Load(router.url)
        try:
            time.sleep(SECONDS / 4)
            assert served(workers[0]) > 0 and served(workers[1]) > 0
            port = workers[0].port
            workers[0].process.kill()
            killed = time.monotonic()
            with load.lock:
                in_flight = dict(load.running)
            workers[0].process.wait()
            time.sleep(SECONDS / 4)
            workers[0] = worker(port)
            back = time.monotonic()
            time.sleep(SECONDS / 2)
            load.stop()
            again = served(workers[0])
        finally:
            load.stop()
            router.stop()
            for w in workers:
                w.process.terminate()
    failed = [d for d in load.done if d[3]]
    print(f"\n{len(load.done)} requests of {STREAMS} clients in {load.done[-1][2] - load.done[0][1]:.1f} s; killed with {len(in_flight)} in flight on both, back after {back - killed:.1f} s; "
          f"{len(failed)} failed; the replica served {again:.0f} after it came back")
    if out := os.environ.get("NIBBLE_REPLICAS_OUT"):
        cpu = next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
        counts = {"clients": STREAMS, "requests": len(load.done), "seconds": round(load.done[-1][2] - load.done[0][1], 1), "in_flight_on_both_at_the_kill": len(in_flight), "failed": len(failed),
                  "failed_that_began_after_the_kill": sum(began > killed for _, began, _, _ in failed), "seconds_until_the_replica_was_back": round(back - killed, 1),
                  "requests_of_the_replica_after_it_was_back": round(again)}
        pathlib.Path(out).write_text(json.dumps({"command": "./dev replicas", "machine": cpu, "cores": os.cpu_count(), "unix_seconds": int(time.time()), "counts": counts}, indent=1) + "\n")
    # Only what was under way when the replica died may fail, and of that only the half that was on it.
    assert all(began <= killed for _, began, _, _ in failed), failed
    assert len(failed) <= len(in_flight)
    # Every client went on after the kill, and the replica that came back took its share.
    assert {number for number, began, _, _ in load.done if began > killed} == set(range(STREAMS)) and again > 0
