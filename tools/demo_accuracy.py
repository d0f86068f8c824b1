#!/usr/bin/env python3
"""Prints the accuracy of evaluation runs side by side, with the paired test of those that name a baseline.

    tools/demo_accuracy.py RUN...        folders of `nibble eval`
"""
import json
import pathlib
import sys


def main():
    rows = [("task", "model", "right", "score", "against the baseline (paired)")]
    for folder in map(pathlib.Path, sys.argv[1:]):
        m = json.loads((folder / "metrics.json").read_text())
        score, n = m["aggregate"]["score"], m["num_examples"]
        against = "-"
        if "comparison" in m:
            c = m["comparison"]
            against = f"{c['delta']:+.4f} ± {c['delta_se']:.4f}; only BF16 right {c['b']}, only this one right {c['c']}; exact p = {c['p_value']:.3g}: {c['verdict']}"
        data = json.loads((folder / "config.json").read_text()).get("file") or m["name"]
        rows.append((pathlib.Path(data).stem, str(m["model"]), f"{round(score * n)}/{n}", f"{score:.4f} ± {m['score_se']:.4f}", against))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
