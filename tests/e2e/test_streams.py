"""64 clients stream at once and half of them hang up at random moments: the others get their text, and nothing is left behind."""
import http.client
import json
import random
import re
import threading
import time
import urllib.request

import pytest

from conftest import Server

NUM_STREAMS = 64


@pytest.fixture(scope="module")
def crowded():
    # Pages for a few of the requests only: the rest wait, and some are preempted.
    s = Server("--random-seed", "1", "--max-total-tokens", "2048", "--max-running-requests", "24")
    yield s
    assert s.stop() == 0


def gauge(server, name):
    text = urllib.request.urlopen(server.url + "/metrics", timeout=30).read().decode()
    return float(re.search(rf"^sglang:{name}{{[^}}]*}} (\S+)$", text, re.M)[1])


def stream(server, index, leave_after):
    """The text and finish reason of one stream; None when we left after that many lines."""
    body = {"messages": [{"role": "user", "content": f"Tom has {index} apples. Tom buys {index + 7} more apples. How many apples does Tom have now?"}],
            "temperature": 1, "seed": index, "max_tokens": 96, "stream": True, "ignore_eos": True, "n": 2 if index % 8 == 0 else 1}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    if leave_after == 0:
        return connection.close()
    response = connection.getresponse()
    assert response.status == 200
    text, finish, lines = {}, {}, 0
    for line in response:
        lines += 1
        if leave_after and lines >= leave_after:
            connection.close()
            return response.close()
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            text[choice["index"]] = text.get(choice["index"], "") + (choice["delta"].get("content") or "")
            finish[choice["index"]] = choice["finish_reason"] or finish.get(choice["index"])
    assert line.strip() == b"" and set(finish.values()) == {"length"}, finish
    return text


def crowd(server, leave):
    results, errors = {}, []

    def one(i):
        try:
            results[i] = stream(server, i, leave.get(i))
        except Exception as error:  # noqa: BLE001 - told below, from the test's own thread
            errors.append((i, repr(error)))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(NUM_STREAMS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=300)
    assert not errors and not any(t.is_alive() for t in threads), errors
    return results


def test_streams_survive_those_that_leave(crowded):
    rng = random.Random(11)
    leavers = rng.sample(range(NUM_STREAMS), NUM_STREAMS // 2)
    results = crowd(crowded, {i: rng.choice([0, 1, 2, 3, 10, 40, 90]) for i in leavers})
    stayed = [i for i in range(NUM_STREAMS) if i not in leavers]
    for i in range(0, len(stayed), 8):  # alone, the same text
        assert stream(crowded, stayed[i], None) == results[stayed[i]]
    # Everyone is gone: nothing runs or waits, and every page can be had back.
    for _ in range(200):
        if gauge(crowded, "num_running_reqs") == gauge(crowded, "num_queue_reqs") == 0:
            break
        time.sleep(0.1)
    assert urllib.request.urlopen(urllib.request.Request(crowded.url + "/flush_cache", method="POST"), timeout=30).status == 200
    assert gauge(crowded, "num_used_tokens") == 0 and gauge(crowded, "swa_token_usage") == 0 and gauge(crowded, "full_token_usage") == 0
