#!/usr/bin/env python3
"""A photograph of 12 megapixels from JPEG bytes to the model's patches on one core (src/media/image_bench.cpp), several runs, into bench/results/media.json.

    python3 bench/media.py [BENCH] [--runs 5]
"""
import argparse
import statistics

from record import REPO, head, run_bench, store

WHAT = {"decode_12_megapixels": "decode", "decode_and_cut_12_megapixels/280": "decode, resize and cut into patches for 280 soft tokens", "decode_and_cut_12_megapixels/1120": "the same for 1,120"}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bench", nargs="?", default=str(REPO / "build/dev/src/media/nibble_media_bench"))
    p.add_argument("--runs", type=int, default=5)
    args = p.parse_args()
    done = [run_bench(args.bench, "12_megapixels") for _ in range(args.runs)]
    rows = []
    for name, what in WHAT.items():
        runs = [b["real_time"] for d in done for b in d["benchmarks"] if b["name"] == name]
        rows.append({"name": name, "what": what, "median_ms": statistics.median(runs), "runs_ms": runs})
        print(f"{what}: {rows[-1]['median_ms']:.1f} ms")
    store("media.json", {**head("bench/media.py", done[0]["context"]["load_avg"]), "rows": rows})


if __name__ == "__main__":
    main()
