#!/usr/bin/env python3
"""Prints the accuracy of evaluation runs side by side, with the paired test of those that name a baseline.

    tools/demo_accuracy.py RUN...        folders of `nibble eval`, named SET-NAME by --run-name
"""
import json
import pathlib
import re
import sys

HEAD = ("questions", "weights", "right", "score ± SE", "change ± SE", "lost", "won", "exact p", "tokens a round", "verdict")


def row(folder):
    m = json.loads((folder / "metrics.json").read_text())
    questions = pathlib.Path(json.loads((folder / "config.json").read_text()).get("file") or m["name"]).stem
    weights = re.sub(r"_\d{8}-\d{6}(-\d+)?$", "", folder.name).removeprefix("eval_").removeprefix(f"{questions}-")
    score, n = m["aggregate"]["score"], m["num_examples"]
    c = m.get("comparison")
    against = (f"{(c['c'] - c['b']) / c['n']:+.4f} ± {c['delta_se']:.4f}", str(c["b"]), str(c["c"]), f"{c['p_value']:.3g}") if c else ("", "", "", "")
    drafts = f"{m['spec']['acceptance_length']:.2f}" if "spec" in m else ""
    return (questions, weights, f"{round(score * n)}/{n}", f"{score:.4f} ± {m['score_se']:.4f}", *against, drafts, c["verdict"] if c else "what the others are paired with")


def main():
    rows = [HEAD, *(row(pathlib.Path(folder)) for folder in sys.argv[1:])]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEAD))]
    kept = [i for i in range(len(HEAD)) if any(r[i] for r in rows[1:])]
    for r in rows:
        print("  ".join(r[i].ljust(widths[i]) for i in kept).rstrip())
    print("lost, won: questions that only the first of its set, or only this one, got right; change: won less lost, as a share of the questions")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
