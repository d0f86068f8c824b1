#!/usr/bin/env python3
"""What grammars cost (src/engine/grammar_bench.cpp): milliseconds to compile and microseconds a mask, by schema, into bench/results/grammar_mask.json.

    python3 bench/grammar_mask.py [BENCH]

With the demo model's vocabulary, or with that of the folder in NIBBLE_BENCH_TOKENIZER.
"""
import json
import os
import pathlib
import subprocess
import sys
import time

REPO = pathlib.Path(__file__).resolve().parent.parent


def main():
    bench = sys.argv[1] if len(sys.argv) > 1 else str(REPO / "build/dev/src/engine/nibble_engine_bench")
    done = json.loads(subprocess.run([bench, "--benchmark_filter=grammar_mask", "--benchmark_format=json"], capture_output=True, text=True, check=True).stdout)
    cpu = next(line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"], cwd=REPO, capture_output=True, text=True).stdout.strip()
    report = {"command": "bench/grammar_mask.py", "machine": cpu, "cores": os.cpu_count(), "load_average_before": done["context"]["load_avg"], "commit": commit, "unix_seconds": int(time.time()),
              "vocabulary": "other" if os.environ.get("NIBBLE_BENCH_TOKENIZER") else "demo", "rows": []}
    for b in done["benchmarks"]:
        report["rows"].append({"schema": b["label"], **{k: b[k] for k in ("compile_ms", "MiB", "tokens", "mask_us", "mask_p99_us", "mask_max_us")}})
    for row in report["rows"]:
        print(f"{row['schema']:24s} compile {row['compile_ms']:8.1f} ms  mask mean {row['mask_us']:8.1f} us  p99 {row['mask_p99_us']:8.1f} us  max {row['mask_max_us']:8.1f} us")
    (REPO / "bench/results/grammar_mask.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
