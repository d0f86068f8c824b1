#!/usr/bin/env python3
"""What the HTTP path adds to a token (src/server/http_path_bench.cpp), several runs of 1, 16 and 64 streams, into bench/results/http_path.json: p50, p99 and the largest delay in microseconds, and the processor time of a token.

    python3 bench/http_path.py [BENCH] [--runs 5] [--realtime]

The figures are the run's with the median p99; all p99 are kept. Server, engine and client share the machine's cores. --realtime: SCHED_RR (as root), where other programs run
on the same machine; the result says so.
"""
import argparse

from record import REPO, head, run_bench, store

STREAMS = [1, 16, 64]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bench", nargs="?", default=str(REPO / "build/dev/src/server/nibble_server_bench"))
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--realtime", action="store_true")
    args = p.parse_args()
    runs = {n: [] for n in STREAMS}
    for _ in range(args.runs):
        done = run_bench(args.bench, "http_path", args.realtime)
        for b in done["benchmarks"]:
            runs[int(b["name"].split("/")[1])].append({k: b[k] for k in ("tokens", "p50_us", "p99_us", "max_us", "server_cpu_us", "client_cpu_us")})
    report = {**head("bench/http_path.py", done["context"]["load_avg"], args.realtime), "rows": []}
    for n, of_n in runs.items():
        ordered = sorted(of_n, key=lambda r: r["p99_us"])
        report["rows"].append({"streams": n, **ordered[len(ordered) // 2], "all_p99_us": [r["p99_us"] for r in ordered]})
    for row in report["rows"]:
        print(f"{row['streams']:3d} streams: p50 {row['p50_us']:7.0f} us  p99 {row['p99_us']:7.0f} us  max {row['max_us']:7.0f} us   p99 of all runs {[round(x) for x in row['all_p99_us']]}")
    store("http_path.json", report)


if __name__ == "__main__":
    main()
