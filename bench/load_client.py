#!/usr/bin/env python3
"""What the load generator costs (src/eval/load_client_bench.cpp): its share of a core while it reads 32 streams of 300 tokens/s, several runs, into bench/results/load_client.json.

    python3 bench/load_client.py [BENCH] [--runs 5] [--realtime]

--realtime: SCHED_RR (as root), where other programs run on the same machine, into load_client_realtime.json.
"""
import argparse
import statistics

from record import REPO, head, run_bench, store


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bench", nargs="?", default=str(REPO / "build/dev/src/eval/nibble_eval_bench"))
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--realtime", action="store_true")
    args = p.parse_args()
    done = [run_bench(args.bench, "client_cpu_share", args.realtime) for _ in range(args.runs)]
    runs = [{k: d["benchmarks"][0][k] for k in ("of_a_core", "tokens_per_second", "itl_ms")} for d in done]
    median = statistics.median(r["of_a_core"] for r in runs)
    report = {**head("bench/load_client.py", done[0]["context"]["load_avg"], args.realtime), "streams": 32, "tokens_per_second_a_stream": 300, "median_of_a_core": median, "runs": runs}
    print(f"the client takes {100 * median:.2f} % of a core, in all runs {[round(100 * r['of_a_core'], 2) for r in runs]}")
    store("load_client_realtime.json" if args.realtime else "load_client.json", report)


if __name__ == "__main__":
    main()
