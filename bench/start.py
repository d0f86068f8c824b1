#!/usr/bin/env python3
"""How long the program takes to start and end, `nibble --version`, a hundred times, into bench/results/start.json.

    python3 bench/start.py [NIBBLE] [--runs 100] [--realtime]

--realtime: SCHED_RR (as root), where other programs run on the same machine.
"""
import argparse
import os
import statistics
import subprocess
import time

from record import REPO, head, store


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("nibble", nargs="?", default=str(REPO / "build/wheel/empty/bin/nibble"), help="default: of ./dev wheel")
    p.add_argument("--runs", type=int, default=100)
    p.add_argument("--realtime", action="store_true")
    args = p.parse_args()
    if args.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    before = os.getloadavg()
    runs = []
    for _ in range(args.runs):
        began = time.perf_counter()
        subprocess.run([args.nibble, "--version"], stdout=subprocess.DEVNULL, check=True)
        runs.append((time.perf_counter() - began) * 1e3)
    runs.sort()
    report = {**head("bench/start.py", list(before), args.realtime), "runs": args.runs, "best_ms": runs[0], "median_ms": statistics.median(runs), "p90_ms": runs[int(0.9 * len(runs))]}
    print(f"nibble --version: best {runs[0]:.1f} ms, median {report['median_ms']:.1f} ms")
    store("start.json", report)


if __name__ == "__main__":
    main()
