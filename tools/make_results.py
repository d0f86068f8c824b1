#!/usr/bin/env python3
"""Writes the tables and plots of docs/results.md from the JSON in bench/results/: nothing is measured here.

Each table stands between `<!-- table: NAME -->` and `<!-- end -->` in the document and is replaced whole; a table whose files are not there yet says so.

    bench/results/offline_*                 nibble bench offline: files of --json, or run folders of --out; with speculation also spec-*.json
    bench/results/{cpu,cuda}_ops*.json      nibble bench ops --out
    bench/results/bench_*/, eval_*/         run folders of nibble bench serving and nibble eval
    bench/results/verify_spec_cpu.json, quantize_12b.json, demo_cpu.json, tokenizer.json, other_tools.json, load_client*.json, media.json, replicas.json

Load tests are named bench_WHERE_NAME: WHERE (h200, cpu) picks the table and the plots.
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


def code(lines, mark=""):
    return (f"<!-- {mark} -->\n\n" if mark else "") + "\n".join(f"    {line}" for line in lines)


def offline_reports():
    files = [*STORED.glob("offline_*.json"), *STORED.glob("spec-*.json"), *STORED.glob("offline_*/metrics.json"), *STORED.glob("spec-*/metrics.json")]
    return [read(path) for path in sorted(files)]


def speculates(report):
    return any("speculation" in r for r in report["rows"])


def offline_command(report):
    return re.sub(r" --(out|name) \S+", "", report["command"].removesuffix(" --json")) + " --json"


def offline():
    """Dummy weights: one row a format and batch, the step beside the time of its bytes."""
    reports = [r for r in offline_reports() if not speculates(r)]
    rows = []
    for run in reports:
        for r in run["rows"]:
            device = (run["gpu"] or "").split(",")[0] or run["machine"]
            rows.append((run["format"], device, r["batch"], r["input_len"], short(r["decode_step_seconds"]["p50"] * 1e3), short(r["tok_s_sequence"]), short(r["decode_tok_s"], 4), short(r["prefill_tok_s"], 5)))
    head = ["weights", "device", "sequences", "prompt", "step, median ms", "tok/s a sequence", "tok/s in all", "prefill tok/s"]
    return table(head, rows) + "\n\n" + code(sorted({offline_command(r) for r in reports}), "gpu")


def speculation():
    """Drafts at 12B size: the acceptance is forced, since random weights guess nothing."""
    reports = [r for r in offline_reports() if speculates(r)]
    rows = []
    for run in reports:
        for r in run["rows"]:
            s = r.get("speculation")
            drafts = "none" if not s else f"SYNTHETIC: forced to {s['forced_acceptance_length']:.2f}" if s["synthetic"] else "as they come"
            rows.append((run["format"], (run["gpu"] or "").split(",")[0] or run["machine"], r["batch"], drafts, short(s["acceptance_length"]) if s else "", short(s["mean_drafts"]) if s else "",
                         short(r["decode_step_seconds"]["p50"] * 1e3), short(r["tok_s_sequence"]), short(r["decode_tok_s"], 4), f"{s['gain']:.2f} x" if s else ""))
    head = ["weights", "device", "sequences", "drafts", "tokens a round", "drafts a round", "step, median ms", "tok/s a sequence", "tok/s in all", "gain"]
    return table(head, rows) + ("\n\n" + code(sorted({offline_command(r) for r in reports}), "gpu") if rows else "")


def ops(pattern):
    def make():
        rows, heads = [], []
        for path in sorted(STORED.glob(pattern)):
            run = read(path)
            roofs = [r["read_roof"] / 1e9 for r in run["rows"] if "read_roof" in r] or [run["read_bandwidth"] / 1e9]  # of the moment of each op, or one
            span = " to ".join(dict.fromkeys(f"{f(roofs):,.0f}" for f in (min, max)))
            heads.append(f"{run['backend']}; reads {span} GB/s, bf16 {run['bf16_peak'] / 1e12:,.2f} TFLOP/s")
            for r in run["rows"]:
                rows.append((r["op"], r["format"], r["rows"], short(r["us"], 4), short(r["bytes_per_second"] / 1e9, 4), f"{r['of_bandwidth']:.0%}", f"{r['of_peak']:.0%}"))
        return "; ".join(heads) + "\n\n" + table(["op", "format", "rows", "us", "GB/s", "of the bandwidth", "of the peak"], rows) if rows else table([], [])

    return make


def runs(kind):
    found = []
    for folder in sorted(STORED.glob(f"{kind}*/"), key=lambda f: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", f.name)]):
        file = folder / "sweep.json" if (folder / "sweep.json").exists() else folder / "metrics.json"
        if file.exists():
            metrics = read(file)
            found.append((folder, metrics if isinstance(metrics, list) else [metrics]))
    return found


def serving(where, mark):
    def make():
        rows, asked, commands, drawn = [], set(), set(), False
        for folder, levels in runs(f"bench_{where}"):
            synthetic = where != "cpu" and "mtp" in folder.name  # random weights: no draft would be right
            for m in levels:
                spec = m.get("spec") or {}
                latency, throughput = m["latency"], m["throughput"]
                accepted = (short(spec.get("acceptance_length")) + (" SYNTHETIC" if synthetic else "")).strip()
                rows.append((folder.name, m["load"].get("concurrency") or f"{m['load'].get('rate')}/s", m["load"]["requests"], short(latency["ttft"]["mean"]), short(latency["itl"]["mean"]), short(latency["itl"]["p99"]),
                             short(latency["tok_s_user"]["p50"]), short(throughput["tok_s_user_by_mean_itl"]), short(throughput["output_token_throughput"], 4), short(throughput["request_throughput"]), accepted))
                w, r = m["workload"], m["request"]
                asked.add(f"{w['name']}{' (synthetic)' if w['synthetic'] else ''}, {'exactly' if r['ignore_eos'] else 'at most'} {r['max_tokens']} tokens out")
                drawn = drawn or bool(m.get("histograms"))
                command = re.sub(r" --(out|name) \S+", "", re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:30000", m["command"]))
                commands.add(re.sub(r" --(concurrency|num-prompts|warmup) \S+", lambda f: f[0] if len(levels) > 1 else "", command))
        head = ["run", "in flight", "requests", "TTFT ms", "ITL ms", "ITL p99", "tok/s/user, median", "by mean ITL", "tok/s in all", "req/s", "accept len"]
        plots = [f"![throughput against latency](img/results/throughput_{where}.svg)"] * bool(rows) + [f"![distribution of the times between tokens](img/results/itl_{where}.svg)"] * drawn
        return "\n\n".join([*([f"Prompts: {'; '.join(sorted(asked))}."] * bool(rows)), table(head, rows), *plots, *([code(sorted(commands), mark)] * bool(commands))])

    return make


def gsm8k():
    rows = []
    for _, (m, *_) in [*runs("eval_gsm8k"), *runs("eval_demo-wordmath-numbers_bf16")]:
        a, n = m["aggregate"], m["num_examples"]
        what = "GSM8K, official test split" if m["official_split"] else "its own held-out word problems"
        rows.append((f"{what}, greedy, BF16, `--max-tokens {m['gen']['max_tokens']}`", n, f"{a['score']:.4f} ({round(a['score'] * n)} right)", f"{m['score_se']:.4f}", f"{a['no_answer']:.3f}", f"{a['truncated_rate']:.3f}"))
    return table(["run", "rows", "score", "SE", "no answer", "cut off"], rows)


def accuracy():
    rows = []
    for folder, levels in runs("eval_demo"):
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


def other_tools():
    path = STORED / "other_tools.json"
    if not path.exists():
        return table([], [])
    report, rows, commands = read(path), [], []
    for m in report.get("marks", []):
        same = m["same"]
        what = "generations and marks" if "predicted_answer" not in same else "generations, answers and marks"
        equal = f"all {m['rows']} {what} equal" if set(same.values()) == {m["rows"]} else ", ".join(f"{n} of {m['rows']} {k}" for k, n in same.items()) + " equal"
        rows.append((f"{m['tool']} {m['version']}", f"{m['questions']}, {m['rows']} rows, greedy", f"{m['right']} right, `nibble eval` {m['right_ours']}; {equal}"))
        commands += [m["command"], m["ours"]]
    if load := report.get("load"):
        rows.append((f"AIPerf {load['version']}", f"40 prompts, 4 in flight, 96 tokens each, `bench/paced_server.py`, {len(load['pairs'])} pairs of runs in turn; AIPerf and `nibble bench serving`", "; ".join(
            f"{name} " + ", ".join(f"{p[key][0]:.4g} and {p[key][1]:.4g} ({abs(p[key][1] / p[key][0] - 1):.1%})" for p in load["pairs"])
            for name, key in (("TTFT ms", "ttft_ms"), ("ITL ms", "itl_ms"), ("output tokens/s", "output_tok_s")))))
        commands += [load["command"], load["ours"]]
    where = f"{report['machine']}, {report['cores']} cores, commit {report['commit'].removesuffix('-dirty')}"
    return where + "\n\n" + table(["tool", "what was compared", "outcome"], rows) + "\n\n" + code(list(dict.fromkeys(commands)), "not here: other people's programs, or files that the script makes")


def client_cost():
    rows = []
    for name in ("load_client.json", "load_client_realtime.json"):
        r = read(STORED / name)
        runs = [run["of_a_core"] for run in r["runs"]]
        rows.append((f"`{'' if r['command'].startswith('python3 ') else 'python3 '}{r['command']}`", r["scheduler"], f"{r['load_average_before'][0]:.1f}", len(runs), f"{min(runs):.2%} to {max(runs):.2%}", f"{r['median_of_a_core']:.2%}"))
    return table(["command", "scheduler", "load of the machine before", "runs", "of a core", "median"], rows)


def media():
    path = STORED / "media.json"
    if not path.exists():
        return table([], [])
    m = read(path)
    rows = [(r["what"], f"{r['median_ms']:.1f}", f"{min(r['runs_ms']):.1f} to {max(r['runs_ms']):.1f}") for r in m["rows"]]
    return f"{m['machine']}, one core, {len(m['rows'][0]['runs_ms'])} runs\n\n" + table(["what", "median ms", "all runs, ms"], rows)


def replicas():
    path = STORED / "replicas.json"
    if not path.exists():
        return table([], [])
    m = read(path)
    return f"{m['machine']}, {m['cores']} cores for both replicas, the router and the clients\n\n" + table(["what", "count"], [(k.replace("_", " "), v) for k, v in m["counts"].items()])


TABLES = {"gsm8k": gsm8k, "other tools": other_tools, "client": client_cost, "media": media, "replicas": replicas, "verify spec": verify_spec, "quantize": quantize, "offline": offline, "cpu ops": ops("cpu_ops*.json"), "cuda ops": ops("cuda_ops*.json"), "speculation at 12B": speculation, "serving": serving("h200", "gpu"), "serving cpu": serving("cpu", "long"), "accuracy": accuracy, "demo": demo}


def plots(out):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    import plot_results as p

    out.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for run in offline_reports():
        if speculates(run):
            continue
        x, y = [r["tok_s_sequence"] for r in run["rows"]], [r["decode_tok_s"] for r in run["rows"]]
        axis.plot(x, y, marker="o", label=f"{run['format']}, {(run['gpu'] or '').split(',')[0] or run['machine']}")
        for r, a, b in zip(run["rows"], x, y):
            axis.annotate(str(r["batch"]), (a, b), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set(xlabel="tokens/s of one sequence", ylabel="tokens/s of all", title="Decode, 12B shapes, random weights (labels: sequences at once)", xlim=(0, None), ylim=(0, None))
    axis.legend(fontsize=8)
    p.save(figure, out, "offline.svg")
    for path in sorted([*STORED.glob("cpu_ops*.json"), *STORED.glob("cuda_ops*.json")]):
        p.roofline(path, out)
        (out / "roofline.svg").rename(out / f"{path.stem}.svg")
    for where in ("h200", "cpu"):
        if loads := [p.read(f) for f, _ in runs(f"bench_{where}")]:
            p.throughput(loads, out, f"throughput_{where}.svg")
            p.itl(loads, out, f"itl_{where}.svg")
    evaluations = [p.read(f) for f, _ in runs("eval_demo")]
    if evaluations:
        p.accuracy(evaluations, out)


def filled(text):
    """The document with every table as the files have it."""
    unknown = set(re.findall(r"<!-- table: (.+?) -->", text)) - set(TABLES)
    if unknown:
        sys.exit(f"docs/results.md: unknown tables {sorted(unknown)}")
    return re.sub(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", text, flags=re.S)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--check", action="store_true", help="change nothing; fail when the document does not say what the files say")
    a = a.parse_args()
    document = REPO / "docs/results.md"
    text = document.read_text()
    made = filled(text)
    if a.check:
        sys.exit(0 if made == text else f"{document}: not what bench/results/ says; run ./dev results")
    document.write_text(made)
    print("written:", document)
    plots(REPO / "docs/img/results")


if __name__ == "__main__":
    main()
