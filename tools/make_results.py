#!/usr/bin/env python3
"""Writes the tables and plots of docs/results.md from the JSON in bench/results/: nothing is measured here.

Each table stands between `<!-- table: NAME -->` and `<!-- end -->` in the document and is replaced whole; a table whose files are not there yet says so.

    bench/results/offline_*.json            nibble bench offline --json
    bench/results/{cpu,cuda}_ops*.json      nibble bench ops --out
    bench/results/bench_*/, eval_*/         run folders of nibble bench serving and nibble eval
    bench/results/verify_spec_cpu.json, quantize_12b.json, demo_cpu.json, tokenizer.json
"""
import argparse
import json
import pathlib
import re
import sys

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tools"))
STORED = REPO / "bench/results"


def read(path):
    return json.loads(path.read_text())


def table(head, rows):
    if not rows:
        return "No run is stored yet."
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows])


def short(x, digits=3):
    return "" if x is None else f"{x:,.{max(0, digits - len(str(int(abs(x)))))}f}"


def offline():
    """Dummy weights: one row a format and batch, the step beside the time of its bytes."""
    rows = []
    for path in sorted(STORED.glob("offline_*.json")):
        run = read(path)
        for r in run["rows"]:
            device = run["gpu"].split(",")[0] or run["machine"]
            rows.append((run["format"], device, r["batch"], r["input_len"], short(r["decode_step_seconds"]["p50"] * 1e3), short(r["tok_s_sequence"]), short(r["decode_tok_s"], 4), short(r["prefill_tok_s"], 5)))
    commands = sorted({read(p)["command"].removesuffix(" --json") + " --json" for p in STORED.glob("offline_*.json")})
    head = ["weights", "device", "sequences", "prompt", "step, median ms", "tok/s a sequence", "tok/s in all", "prefill tok/s"]
    return table(head, rows) + "\n\n<!-- gpu -->\n\n" + "\n".join(f"    {c}" for c in commands)


def ops(pattern):
    def make():
        rows, heads = [], []
        for path in sorted(STORED.glob(pattern)):
            run = read(path)
            heads.append(f"{run['backend']}; reads {run['read_bandwidth'] / 1e9:,.0f} GB/s, bf16 {run['bf16_peak'] / 1e12:,.2f} TFLOP/s")
            for r in run["rows"]:
                rows.append((r["op"], r["format"], r["rows"], short(r["us"], 4), short(r["bytes_per_second"] / 1e9, 4), f"{r['of_bandwidth']:.0%}", f"{r['of_peak']:.0%}"))
        return "; ".join(heads) + "\n\n" + table(["op", "format", "rows", "us", "GB/s", "of the bandwidth", "of the peak"], rows) if rows else table([], [])

    return make


def runs(kind):
    found = []
    for folder in sorted(STORED.glob(f"{kind}_*/"), key=lambda f: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", f.name)]):
        file = folder / "sweep.json" if (folder / "sweep.json").exists() else folder / "metrics.json"
        if file.exists():
            metrics = read(file)
            found.append((folder, metrics if isinstance(metrics, list) else [metrics]))
    return found


def serving():
    rows = []
    for folder, levels in runs("bench"):
        for m in levels:
            spec = m.get("spec") or {}
            latency, throughput = m["latency"], m["throughput"]
            rows.append((folder.name, m["load"].get("concurrency") or f"{m['load'].get('rate')}/s", short(latency["ttft"]["mean"]), short(latency["itl"]["mean"]), short(latency["tok_s_user"]["mean"]),
                         short(throughput["output_token_throughput"], 4), short(throughput["request_throughput"]), short(spec.get("acceptance_length"))))
    return table(["run", "in flight", "TTFT ms", "ITL ms", "tok/s/user", "tok/s in all", "req/s", "accept len"], rows)


def accuracy():
    rows = []
    for folder, levels in runs("eval"):
        m = levels[0]
        c = m.get("comparison") or {}
        questions, _, weights = folder.name.removeprefix("eval_demo-").partition("_")
        score, n = m["aggregate"]["score"], m["num_examples"]
        change = f"{(c['c'] - c['b']) / c['n']:+.4f} ± {c['delta_se']:.4f}" if c else ""
        rows.append((questions, weights, f"{round(score * n)} of {n}", f"{score:.4f} ± {m['score_se']:.4f}", change, c.get("b", ""), c.get("c", ""), f"{c['p_value']:.3g}" if c else "", c.get("verdict", ""),
                     short((m.get("spec") or {}).get("acceptance_length"))))
    return table(["questions", "weights", "right", "score ± SE", "to BF16 ± SE", "only BF16 right", "only this right", "exact p", "verdict", "tokens a round"], rows)


def demo():
    d, t = read(STORED / "demo_cpu.json"), read(STORED / "tokenizer.json")
    return table(["what", "value", "command"], [
        ("start of the process to first token", f"{d['start_to_first_token_seconds']:.2f} s", f"`{d['command']}`"),
        (f"first token of {d['prompt_tokens']} tokens", f"{d['first_token_seconds'] * 1e3:.0f} ms", f"`{d['command']}`"),
        ("decode, one stream", f"{d['tokens_per_second']:,.0f} tok/s", f"`{d['command']}`"),
        ("tokenizer, mixed documents", f"{t['encode_bytes_per_second'] / 1e6:.0f} MB/s, {t['ratio']:.1f}x tokenizers {t['rust_version']}", f"`{t['command']}`"),
    ])


def verify_spec():
    path = STORED / "verify_spec_cpu.json"
    if not path.exists():
        return table([], [])
    report = read(path)
    rows = [(run["weights"], run["prompts"], r["concurrency"], r["tokens"], f"{r['same_bits']} of {r['prompts']}", f"{r['acceptance_length']:.3f}", f"{r['acceptance_length_change']:+.2%}",
             " / ".join(f"{rate:.2f}" for rate in r["position_rate"])) for run in report["runs"] for r in run["rows"]]
    return report["machine"] + "\n\n" + table(["weights", "prompts", "at once", "tokens", "replies with the same bits", "tokens a round", "to one at a time", "accepted at position 1 / 2 / .."], rows)


def quantize():
    report = read(STORED / "quantize_12b.json")
    rows = []
    for name, run in report["runs"].items():
        weights, device = name.split("_")
        rows.append((weights.upper(), {"cpu": "16 cores", "cuda": "one GPU"}[device], f"{run['wall_seconds']:.1f} s", f"{run['peak_rss_bytes'] / 1e9:.2f} GB", f"{run['peak_anonymous_bytes'] / 1e6:.0f} MB",
                     f"{run['bytes_before'] / 1e9:.2f} to {run['bytes_after'] / 1e9:.2f} GB", f"{run['sqnr_db']:.2f} dB", f"{run['sqnr_db_max']:.2f} dB"))
    return f"{report['machine']}; {report['note']}\n\n" + table(["to", "on", "time", "memory at most", "of it not mapped files", "bytes", "signal to noise", "with max's scales"], rows)


TABLES = {"verify spec": verify_spec, "quantize": quantize, "offline": offline, "cpu ops": ops("cpu_ops*.json"), "cuda ops": ops("cuda_ops*.json"), "serving": serving, "accuracy": accuracy, "demo": demo}


def plots(out):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    import plot_results as p

    out.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for path in sorted(STORED.glob("offline_*.json")):
        run = read(path)
        x, y = [r["tok_s_sequence"] for r in run["rows"]], [r["decode_tok_s"] for r in run["rows"]]
        axis.plot(x, y, marker="o", label=f"{run['format']}, {run['gpu'].split(',')[0] or run['machine']}")
        for r, a, b in zip(run["rows"], x, y):
            axis.annotate(str(r["batch"]), (a, b), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set(xlabel="tokens/s of one sequence", ylabel="tokens/s of all", title="Decode, 12B shapes, random weights (labels: sequences at once)", xlim=(0, None), ylim=(0, None))
    axis.legend(fontsize=8)
    p.save(figure, out, "offline.svg")
    for path in sorted([*STORED.glob("cpu_ops*.json"), *STORED.glob("cuda_ops*.json")]):
        p.roofline(path, out)
        (out / "roofline.svg").rename(out / f"{path.stem}.svg")
    loads, evaluations = [p.read(f) for f, _ in runs("bench")], [p.read(f) for f, _ in runs("eval")]
    if loads:
        p.throughput(loads, out)
        p.itl(loads, out)
    if evaluations:
        p.accuracy(evaluations, out)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--check", action="store_true", help="change nothing; fail when the document does not say what the files say")
    a = a.parse_args()
    document = REPO / "docs/results.md"
    text = document.read_text()
    unknown = set(re.findall(r"<!-- table: (.+?) -->", text)) - set(TABLES)
    if unknown:
        sys.exit(f"{document}: unknown tables {sorted(unknown)}")
    made = re.sub(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", text, flags=re.S)
    if a.check:
        sys.exit(0 if made == text else f"{document}: not what bench/results/ says; run ./dev results")
    document.write_text(made)
    print("written:", document)
    plots(REPO / "docs/img/results")


if __name__ == "__main__":
    main()
