#!/usr/bin/env python3
"""A server under rough clients for a long time: random requests of every API, clients that hang up, that read slowly, that send nonsense, and a SIGTERM in the middle.

    python tests/soak.py [--minutes 30] [--connections 64] [--nibble build/dev/src/app/nibble]

Wants: every response complete or a clean error, nothing stuck, nothing left in the engine afterwards, resident memory flat within 2 % after the first third, exit status 0 on both SIGTERMs.
Prints one line of counts a minute, how long replies took, and a verdict; exit status 0 when all holds. --out writes the same as JSON. Loopback only.
"""
import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

REPO = pathlib.Path(__file__).resolve().parents[1]
REQUEST_SECONDS = 600  # longer is stuck, also on a machine with other things to do
NAMES = ["Tom", "Mia", "Ben", "Eva"]
THINGS = ["apples", "pens", "books", "coins"]


class Server:
    def __init__(self, nibble, log):
        self.log = open(log, "w")
        self.process = subprocess.Popen([nibble, "serve", "--port", "0", "--max-running-requests", "16", "--chunked-prefill-size", "128", "--max-queued-requests", "40", "--http-write-timeout", "20", "--log-level-http", "warning"],
                                        stdout=self.log, stderr=subprocess.STDOUT)
        self.leaving = False
        for _ in range(600):
            text = pathlib.Path(log).read_text()
            found = re.search(r"listening on \S+:(\d+)", text)
            if found and "ready to roll" in text:
                self.port = int(found[1])
                return
            assert self.process.poll() is None, text
            time.sleep(0.1)
        raise SystemExit("the server did not start")

    def rss_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text())[1])

    def num_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def get(self, path):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60).read().decode()

    def queue_seconds(self):
        """How long requests waited for their first step: their number, the mean, and upper bounds of the 99th percentile and the longest."""
        text = self.get("/metrics")
        count, total = (float(re.search(rf"^sglang:queue_time_seconds_{name}{{[^}}]*}} (\S+)$", text, re.M)[1]) for name in ("count", "sum"))
        buckets = [(float(le), int(n)) for le, n in re.findall(r'^sglang:queue_time_seconds_bucket{[^}]*le="([^"]+)"} (\d+)$', text, re.M)]
        return {"count": int(count), "mean": total / max(count, 1), **{name: next(le for le, n in buckets if n >= share * count) for name, share in (("p99_below", 0.99), ("max_below", 1.0))}}

    def gauge(self, name):
        return float(re.search(rf"^sglang:{name}{{[^}}]*}} (\S+)$", self.get("/metrics"), re.M)[1])


class Soak:
    def __init__(self, args):
        self.args, self.counts, self.failures, self.lock = args, collections.Counter(), [], threading.Lock()
        self.server, self.over = None, threading.Event()
        self.commit = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"], cwd=REPO, capture_output=True, text=True).stdout.strip()  # at the start: the tree may move on
        self.seconds, self.halves = [], []  # from request to the end of the reply

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def took(self, began):
        with self.lock:
            self.seconds.append(time.monotonic() - began)

    def fail(self, what):
        with self.lock:
            self.counts["FAILED"] += 1
            self.failures.append(what)
            print("FAILED", what, flush=True)

    # ---- requests ----

    def question(self, rng):
        a, b = rng.randrange(2, 99), rng.randrange(2, 99)
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        return f"{name} has {a} {thing}. {name} buys {b} more {thing}. How many {thing} does {name} have now?" + " Please." * rng.choice([0, 0, 0, 1, 40, 200])

    def request(self, rng):
        """(path, body, how the stream of it ends)"""
        text, stream, most = self.question(rng), rng.random() < 0.7, rng.choice([1, 8, 60, 200])
        sampling = {"temperature": rng.choice([0, 1, 3]), "stream": stream, "ignore_eos": rng.random() < 0.3}
        kind = rng.random()
        if kind < 0.5:
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": most, **sampling}
            if rng.random() < 0.3:
                body["chat_template_kwargs"] = {"enable_thinking": True, **({"thinking_budget": rng.randrange(0, 40)} if rng.random() < 0.5 else {})}
            if rng.random() < 0.2:
                body["tools"] = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
            if rng.random() < 0.2:
                body["n"] = rng.randrange(1, 5)
            if rng.random() < 0.2:
                body |= {"logprobs": True, "top_logprobs": 5}
            return "/v1/chat/completions", body, b"data: [DONE]"
        if kind < 0.65:
            return "/v1/completions", {"prompt": [text] * rng.randrange(1, 4), "max_tokens": most, **sampling}, b"data: [DONE]"
        if kind < 0.8:
            return "/v1/responses", {"input": text, "max_output_tokens": most, "reasoning": {"effort": rng.choice(["none", "low"])}, **sampling}, (b"event: response.completed", b"event: response.incomplete")
        if kind < 0.95:
            return "/v1/messages", {"messages": [{"role": "user", "content": text}], "max_tokens": most, **sampling}, b"event: message_stop"
        return "/generate", {"text": text, "sampling_params": {"max_new_tokens": most, "temperature": 1}, "stream": stream}, b"data: [DONE]"

    def bad_request(self, rng):
        return rng.choice([
            ("/v1/chat/completions", b"{"), ("/v1/chat/completions", b"\xff\xfe"), ("/v1/chat/completions", b"[1]"), ("/v1/chat/completions", b'{"messages": []}'), ("/v1/responses", b'{"input": 7}'),
            ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}'), ("/v1/messages", b'{"messages": [{"role": "user", "content": "x"}]}'),
            ("/v1/completions", b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}"), ("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "word " * 9000}]}).encode()),
            ("/no/such/path", b"{}"), ("/v1/embeddings", b"{}")])

    def one(self, rng):
        server = self.server
        action = rng.random()
        try:
            if action < 0.1:
                path, body = self.bad_request(rng)
                status, text = self.post(server, path, body)
                if status == 200 or status == 500:
                    return self.fail(f"bad request to {path} gave {status}")
                json.loads(text)
                return self.count("refused")
            if action < 0.15:  # half a request, and gone
                with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
                    s.sendall(rng.choice([b"", b"POST /v1/chat/compl", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 500\r\n\r\n{\"messages\"", b"\x16\x03\x01garbage\r\n\r\n"]))
                    time.sleep(rng.random())
                return self.count("half")
            path, body, ending = self.request(rng)
            if action < 0.35:
                return self.hang_up(server, path, body, rng)
            if body.get("stream"):
                return self.stream(server, path, body, ending, rng, slow=action < 0.5)
            status, text = self.post(server, path, json.dumps(body).encode())
            reply = json.loads(text)
            if status == 503:
                return self.turned_away(reply)
            if status != 200:
                return self.fail(f"{path} gave {status}: {text[:300]}")
            self.count("whole")
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected) as error:
            # Before the first byte of a reply, while the server goes away: the request was not taken.
            if not server.leaving:
                return self.fail(f"connection lost: {error!r}")
            self.count("server away")
            time.sleep(0.1)

    def turned_away(self, reply):
        self.count("busy")
        time.sleep(0.2)
        if "error" not in reply:
            self.fail(f"a 503 without an error: {reply}")

    def post(self, server, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=REQUEST_SECONDS)
        try:
            began = time.monotonic()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            if response.status == 200:
                self.took(began)
            return response.status, text
        finally:
            connection.close()

    def hang_up(self, server, path, body, rng):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=REQUEST_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            if rng.random() < 0.7:
                response = connection.getresponse()
                for _ in range(rng.randrange(0, 30)):
                    if not response.readline():
                        break
            else:
                time.sleep(rng.random() * 0.3)
        finally:
            connection.close()
        self.count("hung up")

    def stream(self, server, path, body, ending, rng, slow):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=REQUEST_SECONDS)
        try:
            began = time.monotonic()
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status == 503:
                return self.turned_away(json.loads(response.read()))
            if response.status != 200:
                return self.fail(f"{path} gave {response.status}: {response.read()[:300]}")
            try:
                lines = []
                while line := response.readline():
                    lines.append(line.rstrip())
                    if slow and len(lines) % 7 == 0:
                        time.sleep(0.05)
            except (http.client.HTTPException, OSError) as error:
                return self.fail(f"a stream of {path} broke off after {len(lines)} lines: {error!r}")
            endings = ending if isinstance(ending, tuple) else (ending,)
            if any(line.startswith(endings) for line in lines):
                self.took(began)
                return self.count("slow stream" if slow else "stream")
            if server.leaving and any(line.startswith((b"event: response.failed", b"event: error")) for line in lines):
                return self.count("cut off by the shutdown")
            self.fail(f"a stream of {path} has no end: {lines[-3:]}")
        finally:
            connection.close()

    # ---- the run ----

    def work(self, index):
        rng = random.Random(self.args.seed * 1000 + index)
        while not self.over.is_set():
            began = time.monotonic()
            try:
                self.one(rng)
            except Exception as error:  # noqa: BLE001 - a soak test wants to hear of everything
                self.fail(repr(error))
            if time.monotonic() - began > REQUEST_SECONDS:
                self.fail("a request was stuck")

    def half(self, number, seconds):
        """One server's life under load. True: its memory stayed flat."""
        self.server = server = Server(self.args.nibble, self.args.log + f".{number}")
        self.over.clear()
        workers = [threading.Thread(target=self.work, args=(i,), daemon=True) for i in range(self.args.connections)]
        for w in workers:
            w.start()
        samples, began, told = [], time.monotonic(), 0
        while time.monotonic() - began < seconds:
            time.sleep(2)
            assert server.process.poll() is None, f"the server ended by itself with {server.process.returncode}"
            samples.append((time.monotonic() - began, server.rss_kib()))
            if time.monotonic() - began > told:
                told += 60
                print(f"{number}: {time.monotonic() - began:6.0f} s  rss {samples[-1][1] / 1024:7.1f} MiB  files {server.num_files():3d}  " + "  ".join(f"{k} {v}" for k, v in sorted(self.counts.items())), flush=True)
        waits = server.queue_seconds()
        retracted = server.gauge("num_retracted_requests_total")
        if number == 0:  # SIGTERM in the middle of it
            server.leaving = True
            server.process.send_signal(signal.SIGTERM)
            status = server.process.wait(timeout=120)
            self.over.set()
            for w in workers:
                w.join(REQUEST_SECONDS)
            if status != 0:
                self.fail(f"exit status {status} after SIGTERM")
        else:
            self.over.set()
            for w in workers:
                w.join(REQUEST_SECONDS)
            self.check_nothing_is_left(server)
            server.process.send_signal(signal.SIGTERM)
            if (status := server.process.wait(timeout=120)) != 0:
                self.fail(f"exit status {status} after SIGTERM")
        if any(w.is_alive() for w in workers):
            self.fail("a client is stuck")
        early = [rss for at, rss in samples if seconds / 3 <= at < seconds / 2]
        late = [rss for at, rss in samples if at >= seconds * 5 / 6]
        if not early or not late:
            return
        growth = statistics.median(late) / statistics.median(early) - 1
        self.halves.append({"rss_kib_early": statistics.median(early), "rss_kib_late": statistics.median(late), "rss_growth": growth, "exit_status": status, "retracted": retracted,
                            "queue_seconds": waits})
        print(f"{number}: rss {statistics.median(early) / 1024:.1f} -> {statistics.median(late) / 1024:.1f} MiB, {growth:+.2%}", flush=True)
        if growth > 0.02:
            self.fail(f"resident memory grew by {growth:.2%}")

    def check_nothing_is_left(self, server):
        for _ in range(300):
            if server.gauge("num_running_reqs") == server.gauge("num_queue_reqs") == 0:
                break
            time.sleep(0.1)
        else:
            self.fail("requests are left in the engine")
        server.get("/flush_cache")
        for name in ("num_used_tokens", "full_token_usage", "swa_token_usage"):
            if server.gauge(name) != 0:
                self.fail(f"{name} is {server.gauge(name)} when nothing runs")
        for _ in range(300):
            if server.gauge("http_requests_active") <= 1:  # the one that asks
                return
            time.sleep(0.1)
        self.fail(f"{server.gauge('http_requests_active')} exchanges are left")

    @staticmethod
    def spread(seconds):
        ordered = sorted(seconds)
        return {"count": len(ordered), **{f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}, "max": ordered[-1]}

    def write(self, seconds):
        cpu = next(line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        report = {"command": f"tests/soak.py --minutes {self.args.minutes:g} --connections {self.args.connections}", "machine": cpu, "cores": os.cpu_count(), "commit": self.commit, "unix_seconds": int(time.time()),
                  "passed": not self.failures, "failures": self.failures[:20], "seconds_a_half": seconds, "counts": dict(sorted(self.counts.items())), "reply_seconds": self.spread(self.seconds), "halves": self.halves}
        temporary = self.args.out + ".tmp"
        pathlib.Path(temporary).write_text(json.dumps(report, indent=1) + "\n")
        os.replace(temporary, self.args.out)

    def run(self):
        seconds = self.args.minutes * 30
        for number in range(2):
            self.half(number, seconds)
        print("  ".join(f"{k} {v}" for k, v in sorted(self.counts.items())))
        if self.seconds:
            print("seconds to the end of a reply: " + "  ".join(f"{k} {v:.4g}" for k, v in self.spread(self.seconds).items()))
        for half in self.halves:
            print("seconds in the queue: " + "  ".join(f"{k} {v:.4g}" for k, v in half["queue_seconds"].items()) + f"  retracted {half['retracted']:.0f}")
        if self.args.out:
            self.write(seconds)
        print("SOAK FAILED" if self.failures else "SOAK PASSED")
        return 1 if self.failures else 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--connections", type=int, default=64)
    p.add_argument("--nibble", default=str(REPO / "build/dev/src/app/nibble"))
    p.add_argument("--log", default="/tmp/nibble_soak.log", help="the servers' logs, with .0 and .1 behind")
    p.add_argument("--out", help="counts, waits and memory as JSON, e.g. bench/results/soak.json")
    p.add_argument("--seed", type=int, default=1)
    return Soak(p.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
