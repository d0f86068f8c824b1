#!/usr/bin/env python3
"""How fast the demo model starts and answers on this machine: start to first token, first token of a prompt of about 100 tokens, tokens a second of one stream.

    python3 bench/demo_speed.py [NIBBLE] [--realtime]

--realtime: client and server under SCHED_RR (as root), where other programs run on the same machine; the result says so.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import time
import urllib.request

from record import REPO, head, store

PROMPT = " ".join(["Mia has 23 apples and buys 48 more apples."] * 7) + " How many?"


def ask(port, text, tokens):
    """Seconds to the first token, tokens a second after it, tokens of the prompt."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, "temperature": 0, "max_tokens": tokens, "ignore_eos": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    began, first, last, usage = time.perf_counter(), None, None, None
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if any(c["delta"].get("content") or c["delta"].get("reasoning_content") for c in event["choices"]):
                last = time.perf_counter()
                first = first or last
    return first - began, (usage["completion_tokens"] - 1) / (last - first) if last > first else None, usage["prompt_tokens"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("nibble", nargs="?", default=str(REPO / "build/dev/src/app/nibble"))
    p.add_argument("--realtime", action="store_true")
    args = p.parse_args()
    load_average = list(os.getloadavg())
    if args.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    began = time.perf_counter()
    server = subprocess.Popen([args.nibble, "serve", "--model-path", "demo", "--port", "0"], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = None
        for line in server.stdout:
            found = re.search(r"listening on [^ ]+:(\d+)", line)
            port = int(found[1]) if found else port
            if "ready to roll" in line:
                break
        ask(port, "Who are you?", 1)
        start = time.perf_counter() - began
        # Each prompt begins differently, so that no prefix is cached.
        runs = [ask(port, f"{i} {PROMPT}", 200) for i in range(5)]
    finally:
        server.terminate()
        server.wait()
    report = {
        **head("bench/demo_speed.py", load_average, args.realtime), "prompt_tokens": runs[0][2], "start_to_first_token_seconds": start,
        "first_token_seconds": statistics.median(r[0] for r in runs), "tokens_per_second": statistics.median(r[1] for r in runs),
    }
    print(json.dumps(report, indent=1))
    store("demo_cpu.json", report)


if __name__ == "__main__":
    main()
