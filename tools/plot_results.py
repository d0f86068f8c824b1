#!/usr/bin/env python3
"""Draws stored results: nothing is measured here, every number comes from JSON that a run wrote.

    tools/plot_results.py RUN... --out DIR [--ops bench/results/cpu_ops.json] [--quantize CHECKPOINT/report.json]

RUN: a folder of `nibble bench serving` or `nibble eval`. Writes DIR/report.md and report.json (with `nibble bench report`, --nibble PATH) and, as SVG:
throughput.svg (throughput against latency over concurrency), itl.svg (distribution of the times between tokens), accuracy.svg (scores with error bars) and
roofline.svg (one bar an op, of the measured bandwidth), quantization.svg (signal to noise of each quantized matrix and largest inputs seen, by layer). Needs matplotlib.
"""
import argparse
import json
import pathlib
import re
import subprocess

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

matplotlib.rcParams["svg.hashsalt"] = "nibble"  # the same bytes for the same numbers
matplotlib.rcParams["svg.fonttype"] = "none"


def read(path):
    folder = pathlib.Path(path)
    file = folder / "sweep.json" if (folder / "sweep.json").exists() else folder / "metrics.json"
    metrics = json.loads(file.read_text())
    levels = metrics if isinstance(metrics, list) else [metrics]
    return {"name": folder.resolve().name, "folder": folder, "levels": levels, "eval": "aggregate" in levels[0]}


def records(run, level):
    c = level["load"].get("concurrency")
    for place in (run["folder"], run["folder"] / f"c{c}", run["folder"] / f"c{c}-r1"):
        if (place / "records.jsonl").exists():
            return [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]
    return []


def save(figure, out, name):
    figure.savefig(out / name, metadata={"Date": None})
    plt.close(figure)
    print("written:", out / name)


def curve_of(run):  # NAME-c1, NAME-c8 ... are one curve
    return re.sub(r"-c\d+$", "", run["name"])


def throughput(runs, out, name="throughput.svg"):
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    curves = {}
    for run in runs:
        curves.setdefault(curve_of(run), []).extend(run["levels"])
    for label, levels in curves.items():
        levels.sort(key=lambda m: m["load"].get("concurrency") or 0)
        x = [m["latency"]["itl"]["mean"] for m in levels]
        y = [m["throughput"]["output_token_throughput"] for m in levels]
        axis.plot(x, y, marker="o", label=label)
        for m, a, b in zip(levels, x, y):
            axis.annotate(f"{m['load'].get('concurrency') or m['load'].get('rate')}", (a, b), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set(xlabel="inter-token latency, mean [ms]", ylabel="output tokens/s, all streams", title="Throughput against latency (labels: requests in flight)")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    save(figure, out, name)


def gaps_between_chunks(run, level):
    """(ms, share of the chunks that came within it): from the stored histogram, for runs of before it was stored from single replies; or nothing."""
    h = level.get("histograms", {}).get("icl")
    if h and h["counts"]:
        shares, total, so_far = [0.0], sum(h["counts"]), 0
        for count in h["counts"]:
            so_far += count
            shares.append(so_far / total)
        return [10 ** ((h["first"] + i) / h["bins_per_decade"]) for i in range(len(shares))], shares
    gaps = sorted((b - a) / 1e6 for r in records(run, level) for a, b in zip(r["chunk_ns"], r["chunk_ns"][1:]))
    return gaps, [(i + 1) / len(gaps) for i in range(len(gaps))]


def itl(runs, out, name="itl.svg"):
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    names = sorted({curve_of(run) for run in runs})
    levels = sorted({level["load"].get("concurrency") or 0 for run in runs for level in run["levels"]})
    for run in runs:
        for level in run["levels"]:
            ms, shares = gaps_between_chunks(run, level)
            if not ms:
                continue
            c = level["load"].get("concurrency") or 0
            place = levels.index(c) / max(len(levels) - 1, 1)  # few requests in flight: solid and dark
            style = {"color": f"C{names.index(curve_of(run))}", "alpha": 1 - 0.6 * place} if len(names) > 1 else {"color": plt.cm.viridis(0.85 * place)}
            axis.plot(ms, shares, label=f"{curve_of(run)}, {c} in flight", linewidth=1.2, **style)
    if not axis.lines:  # neither histograms nor single replies were kept
        return plt.close(figure)
    axis.set(xlabel="time between chunks of one reply [ms]", ylabel="share of chunks", title="Inter-token latency as clients see it, cumulative", xscale="log", ylim=(0, 1))
    axis.set_xlim(left=max(axis.get_xlim()[0], 0.1))  # what came with the chunk before is at the edge
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    save(figure, out, name)


def accuracy(runs, out):
    figure, axis = plt.subplots(figsize=(7, 0.35 * len(runs) + 1.5), layout="constrained")
    for i, run in enumerate(runs):
        m = run["levels"][0]
        axis.errorbar(m["aggregate"]["score"], i, xerr=1.96 * m["score_se"], fmt="o", capsize=4, color="tab:blue" if "comparison" in m else "black")
    axis.set_yticks(range(len(runs)), [re.sub(r"^eval_(demo-)?", "", r["name"]).replace("_", ", ") for r in runs], fontsize=8)
    rows = sorted({run["levels"][0]["num_examples"] for run in runs})
    axis.set(xlabel="score, with 95 % interval (black: what the others are paired with)", title=f"Accuracy (n = {', '.join(map(str, rows))})")
    axis.invert_yaxis()
    save(figure, out, "accuracy.svg")


def roofline(path, out):
    report = json.loads(pathlib.Path(path).read_text())
    rows = report["rows"]
    labels = [f"{r['op']}, {r['format']}, {r['rows']} rows" for r in rows]
    figure, axis = plt.subplots(figsize=(7, 0.22 * len(rows) + 1.5), layout="constrained")
    axis.barh(range(len(rows)), [max(r["of_bandwidth"], r.get("of_peak", 0)) for r in rows], color=["tab:blue" if r["of_bandwidth"] >= r.get("of_peak", 0) else "tab:orange" for r in rows])
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), labels, fontsize=7)
    axis.set(xlabel="of the measured roof (blue: bandwidth, orange: arithmetic)", title=f"Linear kernels, {report['machine']}")
    axis.invert_yaxis()
    save(figure, out, "roofline.svg")


def quantization(path, out):
    report = json.loads(pathlib.Path(path).read_text())
    kinds, inputs = {}, {}
    for m in report["matrices"]:
        found = re.search(r"layers\.(\d+)\.(?:mlp|self_attn)\.(\w+)\.weight$", m["name"])
        if found:
            kinds.setdefault(found[2], []).append((int(found[1]), m["sqnr_db"], m["sqnr_db_max"]))
    for name, seen in ((report.get("calibration") or {}).get("amax") or {}).items():
        found = re.search(r"layers\.(\d+)\.(mlp\.(?:gate|down)_proj|self_attn\.[kv])$", name)
        if found:
            inputs.setdefault(found[2], []).append((int(found[1]), max(seen["first"], seen["rest"])))
    figure, axes = plt.subplots(1 + bool(inputs), 1, figsize=(8, 3.5 * (1 + bool(inputs))), layout="constrained", squeeze=False)
    for i, (kind, rows) in enumerate(sorted(kinds.items())):
        rows.sort()
        axes[0, 0].plot([r[0] for r in rows], [r[1] for r in rows], marker="o", markersize=3, color=f"C{i}", label=kind)
        axes[0, 0].plot([r[0] for r in rows], [r[2] for r in rows], linestyle=":", color=f"C{i}")
    axes[0, 0].set(ylabel="SQNR [dB] (dotted: with max's scales)", title=f"{report['recipe']}, {report['weight_calib_algorithm']}: {report['verdict']['text']}")
    axes[0, 0].title.set_fontsize(9)
    axes[0, 0].legend(fontsize=8, ncols=4)
    for i, (kind, rows) in enumerate(sorted(inputs.items())):
        rows.sort()
        axes[1, 0].plot([r[0] for r in rows], [r[1] for r in rows], marker="o", markersize=3, color=f"C{i}", label=kind)
    if inputs:
        axes[1, 0].set(ylabel="largest magnitude seen", yscale="log")
        axes[1, 0].legend(fontsize=8, ncols=4)
    axes[-1, 0].set_xlabel("layer")
    save(figure, out, "quantization.svg")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="*")
    p.add_argument("--out", required=True, type=pathlib.Path)
    p.add_argument("--ops")
    p.add_argument("--quantize", help="report.json of nibble quantize")
    p.add_argument("--nibble", help="the program; writes report.md and report.json too")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    runs = [read(r) for r in a.runs]
    if a.nibble and runs:
        subprocess.run([a.nibble, "bench", "report", *a.runs, "--out", str(a.out)], check=True)
    loads, evaluations = [r for r in runs if not r["eval"]], [r for r in runs if r["eval"]]
    if loads:
        throughput(loads, a.out)
        itl(loads, a.out)
    if evaluations:
        accuracy(evaluations, a.out)
    if a.ops:
        roofline(a.ops, a.out)
    if a.quantize:
        quantization(a.quantize, a.out)


if __name__ == "__main__":
    main()
