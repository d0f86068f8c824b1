"""eval and bench: over HTTP and in process, interrupted and resumed, marked again."""

import json
import signal
import subprocess
import time

import pytest
from conftest import NIBBLE, REPO

WORD_PROBLEMS = REPO / "models/demo/eval/wordmath-numbers.jsonl"


def nibble(*args, **more):
    return subprocess.run([NIBBLE, *map(str, args)], capture_output=True, text=True, timeout=300, **more)


def predictions(folder):
    rows = [json.loads(line) for line in (folder / "output-rs0.jsonl").read_text().splitlines()]
    return {r["id"]: (r["generation"], r["predicted_answer"], r["symbolic_correct"], r["num_generated_tokens"], r["num_prompt_tokens"]) for r in rows}


def only_run(folder):
    (run,) = folder.iterdir()
    return run


def test_http_and_in_process_predict_the_same(server, tmp_path):
    common = ["eval", "gsm8k", "--data", WORD_PROBLEMS, "--num-examples", "40", "--max-tokens", "64", "--json"]
    a = nibble(*common, "--base-url", server.url, "--out", tmp_path / "http")
    b = nibble(*common, "--model-path", "demo", "--out", tmp_path / "local")
    assert a.returncode == 0 and b.returncode == 0, a.stderr + b.stderr
    assert predictions(only_run(tmp_path / "http")) == predictions(only_run(tmp_path / "local"))
    assert json.loads(a.stdout)["aggregate"] == json.loads(b.stdout)["aggregate"]
    assert json.loads(a.stdout)["aggregate"]["score"] > 0.3
    # Marks come back from the generations alone; a run compared with itself differs nowhere.
    run = only_run(tmp_path / "http")
    again = json.loads(nibble("eval", "--regrade", run, "--json").stdout)
    assert again["changed"] == 0 and again["samples"] == 40 and again["score"] == json.loads(a.stdout)["aggregate"]["score"]
    c = json.loads(nibble(*common, "--base-url", server.url, "--baseline", only_run(tmp_path / "local"), "--out", tmp_path / "again").stdout)
    assert c["comparison"]["b"] == c["comparison"]["c"] == 0 and c["comparison"]["verdict"] == "no measurable loss"


def test_an_interrupted_run_is_readable_and_resumes(tmp_path):
    args = [NIBBLE, "eval", "gsm8k", "--data", str(WORD_PROBLEMS), "--model-path", "demo", "--concurrency", "2", "--max-tokens", "64", "--num-examples", "60"]
    p = subprocess.Popen([*args, "--out", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        time.sleep(0.02)
        found = list(tmp_path.glob("*/output-rs0.jsonl"))
        if found and found[0].read_text().count("\n") >= 3:
            break
    p.send_signal(signal.SIGINT)
    _, errors = p.communicate(timeout=60)
    assert p.returncode == 130, errors
    run = only_run(tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["partial"] and 3 <= metrics["completed_samples"] < 60
    assert metrics["completed_samples"] == len(predictions(run))
    refused = nibble("eval", "gsm8k", "--data", WORD_PROBLEMS, "--model-path", "demo", "--baseline", run, "--out", tmp_path / "x")
    assert refused.returncode == 2 and "partial" in refused.stderr
    done = nibble(*args[1:], "--resume", run)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert not metrics["partial"] and metrics["completed_samples"] == 60


def test_a_task_of_ones_own(server, tmp_path):
    task = tmp_path / "t.jsonl"
    task.write_text('{"task": "sums", "template": "What is {a} + {b}?", "scorer": "number"}\n' + "".join(json.dumps({"a": a, "b": 7, "expected": a + 7, "tags": ["small"]}) + "\n" for a in range(20, 30)))
    r = nibble("eval", "--task", task, "--base-url", server.url, "--out", tmp_path / "out", "--json")
    assert r.returncode == 0, r.stderr
    m = json.loads(r.stdout)
    assert m["name"] == "sums" and m["aggregate"]["score"] > 0.5 and m["by_tag"]["small"] == m["aggregate"]["score"]


@pytest.mark.parametrize("name, marked_by", [("arith", "number"), ("tools-seen", "tool_call"), ("facts", "exact"), ("chat", "exact")])
def test_the_demo_models_sets_are_tasks(server, tmp_path, name, marked_by):
    file = REPO / f"models/demo/eval/{name}.jsonl"
    assert json.loads(file.read_text().split("\n")[0]) == {"task": name, "scorer": marked_by}
    done = nibble("eval", "--task", file, "--num-examples", "20", "--max-tokens", "128", "--base-url", server.url, "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["aggregate"]["score"] >= 0.9


def test_bench_serving_sweeps_and_keeps_records(server, tmp_path):
    r = nibble("bench", "serving", "--base-url", server.url, "--workload", "words", "--input-len", "12", "--output-len", "8", "--num-prompts", "12", "--concurrency", "1,4", "--out", tmp_path, "--json")
    assert r.returncode == 0, r.stderr
    levels = json.loads(r.stdout)
    assert [m["load"]["concurrency"] for m in levels] == [1, 4]
    for m in levels:
        assert m["throughput"]["completed"] == 12 and m["latency"]["osl"]["mean"] == 8 and m["token_source"] == "server"
        assert m["load"]["max_in_flight"] == m["load"]["concurrency"] and m["load"]["cache_flushed"]
        records = [json.loads(line) for line in (only_run(tmp_path) / f"c{m['load']['concurrency']}" / "records.jsonl").read_text().splitlines()]
        ttft = sum(x["chunk_ns"][0] - x["t0_ns"] for x in records) / len(records) / 1e6
        assert m["latency"]["ttft"]["mean"] == pytest.approx(ttft)
        gaps = m["histograms"]["icl"]
        assert sum(gaps["counts"]) == sum(len(x["chunk_ns"]) - 1 for x in records) and sum(m["histograms"]["itl"]["counts"]) == 12
        shortest = min(b - a for x in records for a, b in zip(x["chunk_ns"], x["chunk_ns"][1:])) / 1e6
        assert 10 ** (gaps["first"] / gaps["bins_per_decade"]) <= max(shortest, 1e-3) * (1 + 1e-9)
        start = m["startup"]
        assert 0 < start["process_to_ready_seconds"] < 60 and start["weight_bytes"] > 20e6 and start["load_bytes_per_second"] == pytest.approx(start["weight_bytes"] / start["load_seconds"])
        assert start["peak_host_bytes"] > start["weight_bytes"] and start["device_bytes"] is None and start["program_bytes"] > 1e6
        assert start["first_request_penalty"] == pytest.approx(start["first_request_ttft"] / m["latency"]["ttft"]["p50"])


def test_compare_and_report_of_stored_runs(server, tmp_path):
    common = ["bench", "serving", "--base-url", server.url, "--num-prompts", "6", "--concurrency", "2"]
    for name, cap in (("a", 8), ("b", 8), ("c", 4)):
        assert nibble(*common, "--max-tokens", cap, "--out", tmp_path / name).returncode == 0
    a, b, c = (only_run(tmp_path / n) for n in "abc")
    same = nibble("bench", "compare", a, b)
    assert same.returncode == 0 and "agg tok/s" in same.stdout
    refused = nibble("bench", "compare", a, c)
    assert refused.returncode == 2 and "output cap: 8 and 4" in refused.stderr
    assert "forced" in nibble("bench", "compare", a, c, "--force").stdout
    assert nibble("bench", "report", a, b, "--out", tmp_path / "r").returncode == 0
    assert (tmp_path / "r/report.md").read_text().count(a.name) >= 3 and (a / "report.md").exists()


def test_bench_offline_times_prefill_and_decode():
    r = nibble("bench", "offline", "demo", "--batch", "1,2", "--input-len", "16", "--output-len", "8", "--repeats", "1", "--json")
    assert r.returncode == 0, r.stderr
    rows = json.loads(r.stdout)["rows"]
    assert [(x["batch"], x["input_len"]) for x in rows] == [(1, 16), (2, 16)]
    assert all(x["prefill_tok_s"] > 0 and x["decode_tok_s"] > 0 for x in rows)


def test_no_server_is_one_clear_line():
    r = nibble("eval", "gsm8k", "--data", WORD_PROBLEMS, "--base-url", "http://127.0.0.1:9")
    assert r.returncode == 1 and r.stderr.count("\n") == 1 and "--base-url" in r.stderr
    r = nibble("bench", "serving", "--base-url", "https://example.org")
    assert r.returncode == 2


def test_a_checkpoint_equals_itself():
    r = nibble("eval", "--fidelity", "demo", "--model-path", "demo", "--num-examples", "3", "--json")
    assert r.returncode == 0, r.stderr
    m = json.loads(r.stdout)
    assert m["kld_mean"] == 0 and m["kld_max"] == 0 and m["top1_agreement"] == 1 and m["ppl_ratio"] == 1 and m["documents"] == 3
