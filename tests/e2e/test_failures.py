"""What a server does when its engine goes wrong (--inject-fault): errors for those who wait, a dump, an exit status that a supervisor understands."""

import json
import signal
import subprocess
import threading
import time

import httpx
import pytest
from conftest import NIBBLE, Server

BODY = {"messages": [{"role": "user", "content": "Tom has 23 apples and a secret."}], "temperature": 0, "max_tokens": 400, "ignore_eos": True}


class Faulty(Server):
    """A server that may end by itself."""

    def __init__(self, tmp_path, *flags):
        self.dumps = tmp_path / "dumps"
        super().__init__("--crash-dump-folder", str(self.dumps), *flags)

    def ends_with(self, status, seconds):
        assert self.process.wait(timeout=seconds) == status, "".join(self.log[-20:])
        time.sleep(0.2)  # the log's last lines

    def dump(self):
        (path,) = self.dumps.iterdir()
        assert path.name.startswith("nibble-crash-") and path.name.endswith(f"-{self.process.pid}.jsonl") and path.stat().st_mode & 0o077 == 0
        head, *lines = (json.loads(line) for line in path.read_text().splitlines())
        assert head["event"] == "crash" and head["pid"] == self.process.pid and head["version"]
        return head["reason"], lines


def post(server, results, stream, **more):
    try:
        r = httpx.post(server.url + "/v1/chat/completions", json={**BODY, "stream": stream, **more}, timeout=60)
        results.append((stream, r.status_code, r.text))
    except httpx.HTTPError as error:
        results.append((stream, repr(error), ""))


def crowd(server, streams):
    results = []
    threads = [threading.Thread(target=post, args=(server, results, s)) for s in streams]
    for t in threads:
        t.start()
    return threads, results


def test_a_lost_device_ends_everything_with_errors_and_the_process_with_status_1(tmp_path):
    server = Faulty(tmp_path, "--inject-fault", "lost:60", "--max-running-requests", "2")
    threads, results = crowd(server, [True, False] * 4)  # most wait for their turn
    server.ends_with(1, 20)
    for t in threads:
        t.join(timeout=20)
    assert len(results) == 8
    for stream, status, text in results:
        if stream:
            events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            assert status == 200 and json.loads(events[-2])["error"]["code"] == "internal_error" and events[-1] == "[DONE]", text[-300:]
        else:
            assert status == 500 and json.loads(text)["error"]["message"] == "the engine has failed; the server ends", (status, text)
    log = "".join(server.log)
    assert "the engine has failed and computes nothing any more: step 60 fails" in log and "the process ends with status 1" in log
    reason, lines = server.dump()
    assert "step 60 fails" in reason
    received = [line for line in lines if line["event"] == "request.received"]
    finished = {line["rid"] for line in lines if line["event"] == "request.finished"}
    assert len(received) == 8 and all(line["obj"]["messages"] == BODY["messages"] for line in received)
    assert len({line["rid"] for line in received} - finished) >= 2  # those that ran


def test_one_failed_step_takes_its_own_requests_only(tmp_path):
    server = Faulty(tmp_path, "--inject-fault", "error:20")
    results = []
    post(server, results, False)
    post(server, results, False, max_tokens=5)
    assert [r[1] for r in results] == [500, 200]
    assert httpx.get(server.url + "/health").status_code == 200
    assert server.stop() == 0 and not list(server.dumps.iterdir())


def test_a_crash_leaves_a_dump(tmp_path):
    server = Faulty(tmp_path, "--inject-fault", "crash:20")
    results = []
    post(server, results, False)
    server.ends_with(-signal.SIGSEGV, 20)
    reason, lines = server.dump()
    assert reason == "SIGSEGV" and lines[-1]["event"] == "request.received" and lines[-1]["obj"]["messages"] == BODY["messages"]
    assert "the process dies of SIGSEGV; the requests of the last minutes are in" in "".join(server.log)


def test_a_step_that_never_ends_leaves_a_dump_and_the_watchdogs_status(tmp_path):
    server = Faulty(tmp_path, "--inject-fault", "hang:20", "--watchdog-timeout", "1")
    threads, _ = crowd(server, [False])
    server.ends_with(134, 20)
    reason, lines = server.dump()
    assert reason == "a step did not end" and [line["event"] for line in lines] == ["request.received"]
    for t in threads:
        t.join(timeout=20)


def test_a_failure_while_warming_up_ends_the_start(tmp_path):
    done = subprocess.run([NIBBLE, "serve", "--port", "0", "--inject-fault", "lost:1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "error: the engine failed at its first steps" in done.stderr and "ready to roll" not in done.stdout


@pytest.mark.parametrize("flag, value, said, status", [("--inject-fault", "often", "wanted error:N, lost:N, crash:N or hang:N", 2), ("--crash-dump-folder", "/dev/null/x", "--crash-dump-folder /dev/null/x: ", 1)])
def test_wrong_values_are_named(flag, value, said, status):
    done = subprocess.run([NIBBLE, "serve", "--port", "0", flag, value], capture_output=True, text=True, timeout=60)
    assert done.returncode == status and said in done.stderr, done.stderr
