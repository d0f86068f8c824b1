#!/usr/bin/env python3
"""What grammars cost (src/engine/grammar_bench.cpp): milliseconds to compile and microseconds of processor time a mask, by schema, into bench/results/grammar_mask.json.

    python3 bench/grammar_mask.py [BENCH]

With the demo model's vocabulary, or with that of the folder in NIBBLE_BENCH_TOKENIZER, then into grammar_mask_large.json.
"""
import os
import sys

from record import REPO, head, run_bench, store


def main():
    bench = sys.argv[1] if len(sys.argv) > 1 else str(REPO / "build/dev/src/engine/nibble_engine_bench")
    done = run_bench(bench, "grammar_mask")
    report = {**head("bench/grammar_mask.py", done["context"]["load_avg"]), "vocab_size": int(done["benchmarks"][0]["vocab_size"]), "rows": []}
    for b in done["benchmarks"]:
        report["rows"].append({"schema": b["label"], **{k: b[k] for k in ("compile_ms", "MiB", "tokens", "mask_us", "mask_p99_us", "mask_max_us")}})
    for row in report["rows"]:
        print(f"{row['schema']:24s} compile {row['compile_ms']:8.1f} ms  mask mean {row['mask_us']:8.1f} us  p99 {row['mask_p99_us']:8.1f} us  max {row['mask_max_us']:8.1f} us")
    store("grammar_mask_large.json" if os.environ.get("NIBBLE_BENCH_TOKENIZER") else "grammar_mask.json", report)


if __name__ == "__main__":
    main()
