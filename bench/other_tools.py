#!/usr/bin/env python3
"""Other people's tools, unchanged, beside ours: the same questions, the same load. Into bench/results/other_tools.json.

    python3 bench/other_tools.py [marks] [load] [--gsm8k test.jsonl]      ./dev other-tools installs the tools first

marks: sgl-eval and lm-eval ask the demo model the same questions as `nibble eval gsm8k`; generations and marks are compared one by one.
load:  AIPerf and `nibble bench serving` in turn against bench/paced_server.py, whose speed is known, with the same 40 prompts.
--gsm8k: sgl-eval asks the official test split too (the file is not shipped).
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from record import REPO, head, store

sys.path.insert(0, str(REPO / "tests"))
from nibble_server import NIBBLE, Server  # noqa: E402

ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
LM_TASK = r"""task: boxed
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n{{problem}}"
doc_to_target: "{{expected_answer}}"
generation_kwargs: {until: [], do_sample: false, temperature: 0, max_gen_toks: 128}
filter_list: [{name: boxed, filter: [{function: regex, regex_pattern: '\\boxed\{([^}]*)\}', group_select: -1}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def tool(venv, name):
    path = REPO / ".venv" / venv / "bin" / name
    if not path.exists():
        sys.exit(f"{path}: not installed; ./dev other-tools does it")
    version = subprocess.run([path.parent / "pip", "--disable-pip-version-check", "list", "--format=json"], capture_output=True, text=True, check=True).stdout
    return path, {p["name"].lower().replace("_", "-"): p["version"] for p in json.loads(version)}


def run(args, folder, env=ENV):
    print("$", *args, file=sys.stderr)
    done = subprocess.run([*map(str, args)], cwd=folder, capture_output=True, text=True, env=env, timeout=3000)
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def shown(args, folder):  # as a reader would type it
    text = " ".join(str(a) for a in args).replace(str(folder) + "/", "").replace(str(NIBBLE), "nibble").replace(str(REPO) + "/", "")
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:30000", re.sub(r"\.venv/[^ ]*/bin/", "", text))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def questions(path, folder):
    """Rows of question and answer as `id`, `problem`, `expected_answer`, which all three tools read."""
    out = folder / f"{path.stem}-questions.jsonl"
    rows = [{"id": f"q{i}", "problem": r["question"], "expected_answer": r["answer"].split("####")[1].strip().replace(",", "")} for i, r in enumerate(lines(path))]
    out.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return out


def ours(server, file, folder):
    args = [NIBBLE, "eval", "gsm8k", "--base-url", server.url, "--data", file.name, "--max-tokens", "128", "--out", "ours", "--run-name", file.stem]
    run(args, folder)
    (found,) = (folder / "ours").glob(f"eval_{file.stem}_*")
    return {r["id"]: r for r in lines(found / "output-rs0.jsonl")}, shown(args, folder)


def beside(name, version, command, our_command, file, theirs, ours_rows, extra):
    same = {key: sum(theirs[i][key] == ours_rows[i][key] for i in ours_rows) for key in extra}
    assert theirs.keys() == ours_rows.keys()
    row = {"tool": name, "version": version, "command": command, "ours": our_command, "questions": file.stem.removesuffix("-questions"), "rows": len(ours_rows), "right": sum(r["symbolic_correct"] for r in theirs.values()),
           "right_ours": sum(r["symbolic_correct"] for r in ours_rows.values()), "same": same}
    print(json.dumps(row))
    return row


def sgl_eval(server, file, folder, reference):
    path, versions = tool("sgl-eval", "sgl-eval")
    args = [path, "run", "gsm8k", "--base-url", server.url + "/v1", "--from-dataset", file, "--max-tokens", "128", "--temperature", "0", "--out-dir", folder / f"sgl-{file.stem}"]
    run(args, folder)
    (found,) = (folder / f"sgl-{file.stem}").glob("*/output-rs0.jsonl")
    theirs = {r["id"]: r for r in lines(found)}
    return beside("sgl-eval", versions["sgl-eval"], shown(args, folder), reference[1], file, theirs, reference[0], ("generation", "predicted_answer", "symbolic_correct"))


def lm_eval(server, file, folder, reference):
    path, versions = tool("lm-eval", "lm_eval")
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "boxed.yaml").write_text(LM_TASK.replace("FILE", str(file)))
    args = [path, "run", "--model", "local-chat-completions", "--model_args", f"base_url={server.url}/v1/chat/completions,model=demo,num_concurrent=8", "--apply_chat_template", "--tasks", "boxed",
            "--include_path", tasks, "--log_samples", "--output_path", folder / "lm"]
    run(args, folder)
    (found,) = (folder / "lm").rglob("samples_boxed_*.jsonl")
    theirs = {r["doc"]["id"]: {"generation": r["resps"][0][0], "symbolic_correct": r["exact_match"] == 1} for r in lines(found)}
    return beside("lm-eval", versions["lm-eval"], shown(args, folder), reference[1], file, theirs, reference[0], ("generation", "symbolic_correct"))


def marks(folder, gsm8k):
    server = Server("--model-path", "demo")
    rows = []
    try:
        for path in [REPO / "models/demo/eval/wordmath-numbers.jsonl", *([pathlib.Path(gsm8k)] if gsm8k else [])]:
            file = questions(path, folder)
            reference = ours(server, file, folder)
            rows.append(sgl_eval(server, file, folder, reference))
            if path.parent == REPO / "models/demo/eval":
                rows.append(lm_eval(server, file, folder, reference))
            else:
                rows[-1]["questions"] = "GSM8K, official test split"
    finally:
        server.stop()
    return rows


def load(folder, pairs):
    path, versions = tool("aiperf", "aiperf")
    prompts = lines(REPO / "bench/workloads/qualitative.jsonl")[:44]
    (folder / "models").symlink_to(REPO / "models")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": p["messages"][0]["content"]}) + "\n" for p in prompts))
    server = subprocess.Popen([sys.executable, REPO / "bench/paced_server.py"], stdout=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{int(re.search(r'[0-9]+', server.stdout.readline())[0])}"
    a = [path, "profile", "-m", "default", "--url", url, "--endpoint-type", "chat", "--streaming", "--input-file", "texts.jsonl", "--custom-dataset-type", "single_turn", "--request-count", "40", "--concurrency", "4",
         "--warmup-request-count", "4", "--tokenizer", "models/demo", "--use-server-token-count", "--ui", "none"]
    n = [NIBBLE, "bench", "serving", "--base-url", url, "--model", "default", "--prompts", "prompts.jsonl", "--concurrency", "4", "--num-prompts", "40", "--warmup", "4", "--max-tokens", "96"]
    runs = []
    try:
        for i in range(pairs):
            run([*a, "--artifact-dir", f"aiperf{i}"], folder, os.environ)  # told to be offline it does not read local tokenizers either
            found = folder / f"aiperf{i}/profile_export_aiperf.json"
            theirs = json.loads(found.read_text())
            mine = json.loads(run([*n, "--out", f"ours{i}", "--json"], folder))
            pair = {"ttft_ms": [theirs["time_to_first_token"]["avg"], mine["latency"]["ttft"]["mean"]], "itl_ms": [theirs["inter_token_latency"]["avg"], mine["latency"]["itl"]["mean"]],
                    "output_tok_s": [theirs["output_token_throughput"]["avg"], mine["throughput"]["output_token_throughput"]]}
            print(json.dumps(pair))
            runs.append(pair)
    finally:
        server.terminate()
        server.wait()
    return {"tool": "aiperf", "version": versions["aiperf"], "command": shown(a, folder), "ours": shown(n, folder), "pairs": runs}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="*", choices=["marks", "load", []], help="both without")
    p.add_argument("--gsm8k")
    p.add_argument("--pairs", type=int, default=3)
    args = p.parse_args()
    path = REPO / "bench/results/other_tools.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report |= head("bench/other_tools.py", list(os.getloadavg()))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder).resolve()
        if not args.what or "marks" in args.what:
            report["marks"] = marks(folder, args.gsm8k and pathlib.Path(args.gsm8k).resolve())
        if not args.what or "load" in args.what:
            report["load"] = load(folder, args.pairs)
    store("other_tools.json", report)


if __name__ == "__main__":
    main()
