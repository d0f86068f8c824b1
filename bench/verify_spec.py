#!/usr/bin/env python3
"""Greedy replies of the demo model with and without its assistant, bit by bit: in BF16, NVFP4 and FP8, one request and 32 at a time, always five drafts a round.

    ./dev accuracy                      makes the checkpoints, build/accuracy/nvfp4 and fp8
    python3 bench/verify_spec.py [NIBBLE]

Two sets of 200 prompts: the demo model's own held-out questions, where the acceptance length means something, and the first of the own 880 prompts, where the model rambles and drafts are mostly
wrong. Writes bench/results/verify_spec_cpu.json after each run; fails when a reply differs.
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parent.parent
BOXED = "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n"
SHARES = {"wordmath-numbers": 60, "wordmath-templates": 60, "arith": 30, "facts": 20, "unknown": 10, "chat": 20}
LEVELS = "1,32"


def held_out():
    """Rows of a prompt file: the first questions of each text set that has no tools and no history."""
    for name, count in SHARES.items():
        items = [json.loads(line) for line in (REPO / f"models/demo/eval/{name}.jsonl").read_text().splitlines()]
        for i, item in enumerate([item for item in items if "task" not in item][:count]):
            content = BOXED + item["question"] if "question" in item else item["messages"][0]["content"]
            yield {"question_id": f"{name}-{i:04d}".rjust(32, "-"), "category": name, "messages": [{"role": "user", "content": content}]}


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return platform.machine()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("nibble", nargs="?", default=str(REPO / "build/dev/src/app/nibble"))
    binary = p.parse_args().nibble
    weights = {"BF16": REPO / "models/demo", "NVFP4": REPO / "build/accuracy/nvfp4", "FP8 128x128": REPO / "build/accuracy/fp8"}
    for folder in weights.values():
        if not (folder / "config.json").exists():
            sys.exit(f"{folder}: no such checkpoint; ./dev accuracy makes it")
    out = REPO / "bench/results/verify_spec_cpu.json"
    report = {"command": "python3 bench/verify_spec.py", "machine": processor(), "runs": []}
    same = True
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "held-out.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in held_out()))
        for prompts, flags in (("held-out questions", ["--prompts", str(file)]), ("own prompts", [])):
            for name, model in weights.items():
                command = [binary, "bench", "verify-spec", str(model), "--speculative-draft-model-path", str(REPO / "models/demo/assistant"), "--speculative-adaptive", "off", "--num-prompts", "200", "--concurrency", LEVELS, "--json"]
                done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, text=True, check=False)
                if not done.stdout.startswith("{"):
                    sys.exit(f"{' '.join(command)}: status {done.returncode}, {done.stdout[:200]!r}")
                run = json.loads(done.stdout)
                report["runs"].append({"weights": name, "prompts": prompts, **{k: run[k] for k in ("device", "max_drafts", "adaptive", "rows")}})
                out.with_suffix(".tmp").write_text(json.dumps(report, indent=1) + "\n")
                out.with_suffix(".tmp").rename(out)
                for row in run["rows"]:
                    same = same and row["same_bits"] == row["prompts"]
                    print(f"{name}, {prompts}, {row['concurrency']} at once: {row['same_bits']} of {row['prompts']} replies have the same bits, {row['acceptance_length']:.3f} tokens a round "
                          f"({row['acceptance_length_change']:+.2%} of one at a time), {row['spec_gain']:.2f} x the rate without", flush=True)
    print(f"written: {out}")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
