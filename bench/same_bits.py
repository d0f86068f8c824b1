#!/usr/bin/env python3
"""Asks a running server the same greedy question alone and among others, and compares the replies and their logprobs to the last digit.

    bench/same_bits.py http://127.0.0.1:30000 [--others 63] [--tokens 256] [--prompt 145]

Prompts are token ids (300 to 2600), so that a server of random weights will do. Exit status 1 if anything differs.
"""
import argparse
import concurrent.futures
import json
import random
import sys
import time
import urllib.request


def ask(url, prompt, tokens, logprobs=True):
    body = {"model": "default", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    if logprobs:
        body["logprobs"] = 1
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        choice = json.loads(reply.read(), parse_float=str)["choices"][0]  # as it was printed
    return (choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]) if logprobs else None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("url")
    p.add_argument("--others", type=int, default=63)
    p.add_argument("--tokens", type=int, default=256)
    p.add_argument("--prompt", type=int, default=145)
    args = p.parse_args()
    r = random.Random(7)
    prompt = [r.randrange(300, 2600) for _ in range(args.prompt)]
    alone = ask(args.url, prompt, args.tokens)
    with concurrent.futures.ThreadPoolExecutor(args.others + 1) as pool:
        crowd = [pool.submit(ask, args.url, [r.randrange(300, 2600) for _ in range(r.randrange(1, 4 * args.prompt))], r.randrange(args.tokens // 4, 2 * args.tokens), False) for _ in range(args.others)]
        time.sleep(0.05)
        among = pool.submit(ask, args.url, prompt, args.tokens).result()
        for other in crowd:
            other.result()
    again = ask(args.url, prompt, args.tokens)  # from the prefix cache
    same = [alone[1:] == among[1:], alone[1:] == again[1:]]
    print(json.dumps({"tokens": len(alone[1]), "among": args.others, "same_bits_among_others": same[0], "same_bits_from_the_prefix_cache": same[1], "distinct_tokens": len(set(alone[1]))}))
    return 0 if all(same) and len(alone[1]) == args.tokens else 1


if __name__ == "__main__":
    sys.exit(main())
