"""The pieces of `./dev demo --quantized` and `./dev accuracy`: four bits made of the demo model, asked with and without drafts, paired with BF16, put into one table."""

import json
import subprocess
import sys

from conftest import NIBBLE, REPO

QUESTIONS = REPO / "models/demo/eval/wordmath-templates.jsonl"
DRAFTS = ["--speculative-algorithm", "NEXTN", "--speculative-draft-model-path", REPO / "models/demo/assistant"]


def nibble(*args):
    return subprocess.run([NIBBLE, *map(str, args)], capture_output=True, text=True, timeout=300)


def ask(out, name, model, *more):
    done = nibble("eval", "gsm8k", "--data", QUESTIONS, "--num-examples", 60, "--max-tokens", 128, "--in-process", "--model-path", model, "--out", out, "--run-name", f"wordmath-templates-{name}", *more)
    assert done.returncode == 0, done.stderr
    (run,) = out.glob(f"eval_wordmath-templates-{name}_2*")
    return run, {r["id"]: r for r in map(json.loads, (run / "output-rs0.jsonl").read_text().splitlines())}


def test_four_bits_are_paired_with_bf16_and_drafts_change_nothing(tmp_path):
    four_bits = tmp_path / "nvfp4"
    done = nibble("quantize", "demo", "--qformat", "nvfp4_mlp_only", "--export_path", four_bits, "--calib_size", "12", "--calib_seq", "64", "--no-fidelity")
    assert done.returncode == 0, done.stderr
    eight_bits = nibble("quantize", "demo", "--qformat", "fp8_pb_wo", "--export_path", tmp_path / "fp8", "--amax", four_bits / "amax.json", "--no-fidelity")
    assert eight_bits.returncode == 0, eight_bits.stderr  # calibrated once for both

    bf16, by_bf16 = ask(tmp_path, "bf16", "demo")
    nvfp4, by_nvfp4 = ask(tmp_path, "nvfp4", four_bits, "--baseline", bf16)
    mtp, by_mtp = ask(tmp_path, "nvfp4-mtp", four_bits, "--baseline", bf16, *DRAFTS)
    assert {k: v["generation"] for k, v in by_nvfp4.items()} == {k: v["generation"] for k, v in by_mtp.items()}
    assert any(by_bf16[k]["generation"] != v["generation"] for k, v in by_nvfp4.items())  # they are other weights
    metrics = json.loads((mtp / "metrics.json").read_text())
    assert metrics["spec"]["acceptance_length"] > 2 and "spec" not in json.loads((nvfp4 / "metrics.json").read_text())

    # The table, against counts of our own.
    right = sum(r["symbolic_correct"] for r in by_bf16.values())
    assert 25 < right <= 60
    lost = sum(by_bf16[k]["symbolic_correct"] and not r["symbolic_correct"] for k, r in by_nvfp4.items())
    won = sum(r["symbolic_correct"] and not by_bf16[k]["symbolic_correct"] for k, r in by_nvfp4.items())
    table = subprocess.run([sys.executable, REPO / "tools/demo_accuracy.py", bf16, nvfp4, mtp], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[:3] for line in table[1:4]] == [["wordmath-templates", name, f"{n}/60"] for name, n in (("bf16", right), ("nvfp4", right - lost + won), ("nvfp4-mtp", right - lost + won))]
    assert f"{(won - lost) / 60:+.4f} ± " in table[2] and f"  {lost}     {won}    " in table[2], table
    assert f"{metrics['spec']['acceptance_length']:.2f}" in table[3]


def test_a_server_drafts_by_its_own_flags(tmp_path):
    done = nibble("eval", "gsm8k", "--data", QUESTIONS, "--base-url", "http://127.0.0.1:9", "--out", tmp_path, *DRAFTS)
    assert done.returncode == 2 and "--speculative-algorithm NEXTN: a server has its own" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
