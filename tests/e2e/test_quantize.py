"""`nibble quantize` as a user runs it: files that other tools read, the same bytes twice, and one clear line for every way to fail."""
import json
import os
import shutil
import signal
import subprocess
import time

import numpy
import pytest
from conftest import NIBBLE, REPO
from safetensors import safe_open

BASE = REPO / "tests/data/quant/seed0/base"
WEIGHTS_ALONE = ["-k", "fp8_cast", "--calib_size", "0", "--no-fidelity"]


def quantize(*flags, **kwargs):
    return subprocess.run([NIBBLE, "quantize", *map(str, flags)], capture_output=True, text=True, timeout=240, **kwargs)


def files_of(folder, without=("report.json", "report.md")):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in without}


def last_line(text):
    return text.rstrip("\n").split("\n")[-1]


def test_the_output_is_read_by_others_and_the_same_twice(tmp_path):
    flags = ["--pyt_ckpt_path", "demo", "--qformat", "nvfp4_mlp_only", "--weight_calib_algorithm", "mse", "--kv_cache_qformat", "fp8", "--trust_remote_code", "--calib_size", "24", "--calib_seq", "128", "--num_prompts", "4"]
    for name, threads in (("a", 1), ("b", 2)):
        done = quantize(*flags, "--export_path", tmp_path / name, "--threads", threads)
        assert done.returncode == 0, done.stderr
        assert "good" in done.stdout and "no effect" in done.stderr and "ship with the program" in done.stderr
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    with safe_open(tmp_path / "a/model.safetensors", framework="numpy") as f:
        layer = "model.language_model.layers.0."
        name = layer + "mlp.up_proj.weight"
        assert f.get_slice(name).get_dtype() == "U8" and f.get_slice(name + "_scale").get_dtype() == "F8_E4M3"
        for scalar in (name + "_scale_2", layer + "mlp.up_proj.input_scale", layer + "self_attn.k_proj.k_scale", layer + "self_attn.v_proj.v_scale"):
            value = numpy.asarray(f.get_tensor(scalar))
            assert value.shape == () and value.dtype == numpy.float32 and value > 0, scalar
        assert f.get_tensor(layer + "mlp.up_proj.input_scale") == f.get_tensor(layer + "mlp.gate_proj.input_scale")
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert all(m["error_against_max"] <= 1 + 1e-6 for m in report["matrices"])
    assert report["sqnr_db"] > 18 and report["bytes_after"] < report["bytes_before"]
    assert report["calibration"]["samples"] == 24
    # Against BF16: some difference, and not much.
    fidelity = report["fidelity"]
    assert 0 < fidelity["kld_mean"] < 0.1 and 0.85 < fidelity["top1_agreement"] <= 1 and 0.9 < fidelity["ppl_ratio"] < 1.1
    assert "KL" in report["verdict"]["text"] and report["verdict"]["good"]
    assert "Against BF16" in (tmp_path / "a/report.md").read_text()

    # The maxima of that run, used again, give the same scales; FP8 takes what it needs of them.
    again = quantize(*flags, "--export_path", tmp_path / "c", "--amax", tmp_path / "a/amax.json", "--no-fidelity")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "c/model.safetensors").read_bytes() == (tmp_path / "a/model.safetensors").read_bytes()


def test_compare_puts_the_worst_first_and_runs_prompts(tmp_path):
    assert quantize("demo", "-o", tmp_path / "out", *WEIGHTS_ALONE).returncode == 0
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "Mia has 23 apples. She buys 48 more."}\n{"ids": [2, 30, 31, 32]}\n')
    compare = [NIBBLE, "inspect", "compare", "demo", str(tmp_path / "out")]
    got = json.loads(subprocess.run([*compare, "--prompts", str(prompts), "--json"], capture_output=True, text=True, timeout=120, check=True).stdout)
    errors = [d["relative_error"] for d in got["differences"]]
    assert errors == sorted(errors, reverse=True) and 0.05 < errors[0] < 0.2 and errors[-1] == 0
    worst = got["differences"][0]
    assert ".mlp." in worst["name"] and worst["format_a"] == "BF16" and worst["format_b"] == "NVFP4"
    reported = {m["name"]: m["relative_error"] for m in json.loads((tmp_path / "out/report.json").read_text())["matrices"]}
    assert worst["relative_error"] == pytest.approx(reported["model." + worst["name"]], rel=1e-9)
    assert 0 < got["fidelity"]["kld_mean"] < 0.2 and got["fidelity"]["documents"] == 2
    text = subprocess.run(compare, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "BF16 -> NVFP4" in text and worst["name"] in text
    same = subprocess.run([NIBBLE, "inspect", "compare", "demo", "demo"], capture_output=True, text=True, timeout=120, check=True).stdout
    assert " 0 different" in same and same.count("\n") == 1


@pytest.mark.parametrize("calib", ["max", "mse"])
@pytest.mark.parametrize("kind, format", [("nvfp4", "nvfp4"), ("fp8", "fp8_pb_wo")])
def test_single_matrices_equal_the_reference_quantizers_vectors(tmp_path, kind, format, calib):
    from safetensors import numpy as files

    def raw(path):  # bytes and shapes: numpy knows neither BF16 nor E4M3
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = {k: v for k, v in json.loads(data[8 : 8 + size]).items() if k != "__metadata__"}
        return {k: (v["dtype"], v["shape"], data[8 + size + v["data_offsets"][0] : 8 + size + v["data_offsets"][1]]) for k, v in header.items()}

    vectors = raw(REPO / "tests/data/quant/quant_vectors.safetensors")
    stored = "packed" if kind == "nvfp4" else "q"
    names = [k[: -len(".weight")] for k in vectors if f".{kind}." in k and k.endswith(".weight") and k[: -len(".weight")] + f".{calib}.{stored}" in vectors]
    assert len(names) >= 2
    inputs = {n: (numpy.frombuffer(vectors[n + ".weight"][2], numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32).reshape(vectors[n + ".weight"][1]) for n in names}
    files.save_file(inputs, str(tmp_path / "in.safetensors"))
    done = subprocess.run([NIBBLE, "inspect", "quantize-tensor", "--format", format, "--calib", calib, "--in", str(tmp_path / "in.safetensors"), "--out", str(tmp_path / "out.safetensors")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    got = raw(tmp_path / "out.safetensors")
    for n in names:
        assert got[n + ".weight"][2] == vectors[f"{n}.{calib}.{stored}"][2], n
        assert got[n + ".weight_scale"] == vectors[f"{n}.{calib}.scale"], n
        if kind == "nvfp4":
            assert got[n + ".weight_scale_2"] == vectors[f"{n}.{calib}.scale2"], n
            assert got[n + ".dequantized"] == vectors[f"{n}.{calib}.dequant"], n
    assert len(got) == len(names) * (4 if kind == "nvfp4" else 3)


def test_calibration_text_of_ones_own(tmp_path):
    talk = tmp_path / "talk.jsonl"
    talk.write_text('{"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A small model."}]}\n')
    book = tmp_path / "book.txt"
    book.write_text("Mia has 23 apples. " * 40)
    done = quantize("demo", "-o", tmp_path / "out", "-q", "fp8_pb_wo", "--dataset", f"{talk},{book}", "--calib_size", "5", "--calib_seq", "32", "--no-fidelity")
    assert done.returncode == 0, done.stderr
    calibration = json.loads((tmp_path / "out/report.json").read_text())["calibration"]
    assert [f["samples"] for f in calibration["files"]] == [1, 4] and calibration["bos"] is True
    with safe_open(tmp_path / "out/model.safetensors", framework="numpy") as f:
        assert f.get_tensor("model.language_model.layers.0.self_attn.k_proj.k_scale") > 0
        assert not [name for name in f.keys() if name.endswith("input_scale")]


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--qformat", "int4_awq"], "nvfp4_mlp_only, fp8_pb_wo, none"),
        (["--model-path", REPO / "tests/data/quant/seed0/nvfp4_mse"], "already quantized"),
        (["--model-path", "/no/such/folder"], "no such"),
        (["--weight_calib_algorithm", "best"], "mse, max, mse_tensor"),
        (["--dataset", "cnn_dailymail"], "no such file; nothing is downloaded"),
        (["--calib_size", "many"], "wanted a number of samples"),
        (["--calib-bos", "maybe"], "auto, on, off"),
        ([], "no tokenizer.json; give token ids"),
        (["--amax", "/no/such/amax.json"], "amax.json"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tmp_path, flags, says):
    done = quantize("--model-path", BASE, "--export_path", tmp_path / "out", *flags) if "--model-path" not in flags else quantize("--export_path", tmp_path / "out", *flags)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_ends_with_one_line(tmp_path):
    # A limit on file size stands for a disk that fills up although it had looked large enough.
    done = subprocess.run(["bash", "-c", f"trap '' XFSZ; ulimit -f 100; exec {NIBBLE} quantize {BASE} -o {tmp_path}/out -q fp8_pb_wo -k fp8_cast --no-fidelity"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no room" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB; the demo model in FP8 wants 73 MB with its reserve."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs wants root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True).returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_too_small_is_seen_before_any_work(small_disk):
    done = quantize("demo", "-o", small_disk / "out", "-q", "fp8_pb_wo")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "are wanted on the disk" in done.stderr and "0.01 GB are free" in done.stderr and "--export_path" in done.stderr, done.stderr
    assert list(small_disk.iterdir()) == []


def test_a_corrupt_source_ends_with_one_line_that_names_it(tmp_path):
    shutil.copytree(BASE, tmp_path / "bad")
    model = tmp_path / "bad/model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    done = quantize(tmp_path / "bad", "-o", tmp_path / "out", *WEIGHTS_ALONE)
    assert done.returncode == 2 and last_line(done.stderr).count("model.safetensors") == 1, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]

    # A NaN among the weights: found by the scale search, and by calibration; both name the tensor.
    name = "model.language_model.layers.4.mlp.up_proj.weight"
    size = int.from_bytes(whole[:8], "little")
    at = 8 + size + json.loads(whole[8 : 8 + size])[name]["data_offsets"][0] + 100
    model.write_bytes(whole[:at] + b"\xc0\x7f" + whole[at + 2 :])
    ids = tmp_path / "ids.jsonl"
    ids.write_text('{"ids": [2, 3, 4, 5]}\n')
    for flags in (WEIGHTS_ALONE, ["--dataset", ids]):
        done = quantize(tmp_path / "bad", "-o", tmp_path / "out", *flags)
        assert done.returncode == 2 and name + ": holds NaN or infinity" in last_line(done.stderr), done.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "ids.jsonl"]


def journal_lines(target):
    try:
        return (target.parent / (target.name + ".partial") / "journal.jsonl").read_text().count("\n")
    except OSError:
        return 0


def start(*flags):
    return subprocess.Popen([NIBBLE, "quantize", *map(str, flags)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def large_model(tmp_path_factory):
    """Random weights of a shape that takes seconds to quantize, so that a signal comes in the middle."""
    folder = tmp_path_factory.mktemp("large")
    config = json.loads((BASE / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 1024, "intermediate_size": 4096}
    config["vision_config"]["output_proj_dims"] = 1024
    (folder / "config").mkdir()
    (folder / "config/config.json").write_text(json.dumps(config))
    made = subprocess.run([NIBBLE, "bench", "checkpoint", folder / "config", folder / "bf16"], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    return folder / "bf16"


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_output_and_the_next_one_goes_on_to_the_same_bytes(tmp_path, large_model, kill):
    target = tmp_path / "out"
    flags = [large_model, "-o", target, "-q", "nvfp4_mlp_only", *WEIGHTS_ALONE, "--sync-mb", "8"]
    run = start(*flags, "--threads", "1")
    deadline = time.monotonic() + 60
    while journal_lines(target) < 3 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(kill)
    _, stderr = run.communicate(timeout=60)
    # It was before the end: something was done, something was not, and nothing is there under the final name.
    assert run.returncode == (-9 if kill == signal.SIGKILL else 130), (run.returncode, stderr)
    assert not target.exists()
    done_before = journal_lines(target) - 1
    assert done_before >= 2
    if kill == signal.SIGINT:
        assert "goes on from here" in last_line(stderr)
    done = quantize(*flags)
    assert done.returncode == 0, done.stderr
    report = json.loads((target / "report.json").read_text())
    assert 0 < report["bytes_resumed"] < report["bytes_before"]
    assert quantize(large_model, "-o", tmp_path / "again", *WEIGHTS_ALONE).returncode == 0
    assert files_of(target) == files_of(tmp_path / "again")
    assert sorted(os.listdir(tmp_path)) == ["again", "out"]


def test_an_interrupted_calibration_goes_on(tmp_path):
    text = tmp_path / "long.txt"
    text.write_text(" ".join(f"Mia has {i} apples and buys {i * 7 % 100} more." for i in range(20000)))
    flags = ["demo", "-q", "nvfp4_mlp_only", "--dataset", text, "--calib_size", "60", "--calib_seq", "256", "--batch_size", "2", "--no-fidelity"]
    target = tmp_path / "out"
    run = start(*flags, "-o", target)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out.partial/amax.json").exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130 and "calibration samples; the same command goes on from here" in last_line(stderr), stderr
    state = json.loads((tmp_path / "out.partial/amax.json").read_text())
    assert 0 < state["samples"] < 60
    assert quantize(*flags, "-o", target).returncode == 0
    assert json.loads((target / "report.json").read_text())["calibration"]["resumed_samples"] == state["samples"]
    assert quantize(*flags, "-o", tmp_path / "again").returncode == 0
    assert files_of(target) == files_of(tmp_path / "again")
