"""`nibble quantize` as a user runs it: files that other tools read, the same bytes twice, and one clear line for every way to fail."""
import json
import os
import signal
import subprocess
import time

import numpy
import pytest
from conftest import NIBBLE, REPO
from safetensors import safe_open

BASE = REPO / "tests/data/quant/seed0/base"


def quantize(*flags, **kwargs):
    return subprocess.run([NIBBLE, "quantize", *map(str, flags)], capture_output=True, text=True, timeout=120, **kwargs)


def files_of(folder, without=("report.json", "report.md")):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in without}


def test_the_output_is_read_by_others_and_the_same_twice(tmp_path):
    for name, threads in (("a", 1), ("b", 2)):
        done = quantize("--pyt_ckpt_path", "demo", "--export_path", tmp_path / name, "--qformat", "nvfp4_mlp_only", "--weight_calib_algorithm", "mse", "--kv_cache_qformat", "fp8_cast", "--trust_remote_code", "--threads", threads)
        assert done.returncode == 0, done.stderr
        assert "good" in done.stdout and "no effect" in done.stderr
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    with safe_open(tmp_path / "a/model.safetensors", framework="numpy") as f:
        name = "model.language_model.layers.0.mlp.up_proj.weight"
        assert f.get_slice(name).get_dtype() == "U8" and f.get_slice(name + "_scale").get_dtype() == "F8_E4M3"
        assert numpy.asarray(f.get_tensor(name + "_scale_2")).shape == ()
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert all(m["error_against_max"] <= 1 + 1e-6 for m in report["matrices"])
    assert report["sqnr_db"] > 18 and report["bytes_after"] < report["bytes_before"]


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--qformat", "int4_awq"], "nvfp4_mlp_only, fp8_pb_wo, none"),
        (["--model-path", REPO / "tests/data/quant/seed0/nvfp4_mse"], "already quantized"),
        (["--model-path", "/no/such/folder"], "no such"),
        (["--weight_calib_algorithm", "best"], "mse, max"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tmp_path, flags, says):
    done = quantize("--model-path", BASE, "--export_path", tmp_path / "out", *flags) if "--model-path" not in flags else quantize("--export_path", tmp_path / "out", *flags)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_with_one_line(tmp_path):
    # A limit on file size stands for a full disk: the write fails in the same way, at the same place.
    done = subprocess.run(["bash", "-c", f"trap '' XFSZ; ulimit -f 100; exec {NIBBLE} quantize {BASE} -o {tmp_path}/out -k fp8_cast"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no room" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_corrupt_source_ends_with_one_line_that_names_it(tmp_path):
    import shutil

    shutil.copytree(BASE, tmp_path / "bad")
    whole = (tmp_path / "bad/model.safetensors").read_bytes()
    (tmp_path / "bad/model.safetensors").write_bytes(whole[: len(whole) // 2])
    done = quantize(tmp_path / "bad", "-o", tmp_path / "out", "-k", "fp8_cast")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "model.safetensors" in done.stderr, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_output_and_the_next_one_finishes(tmp_path, kill):
    flags = [NIBBLE, "quantize", "demo", "-o", str(tmp_path / "out"), "-q", "fp8_pb_wo", "-k", "fp8_cast", "--threads", "1"]
    run = subprocess.Popen(flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "out.partial").exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(kill)
    _, stderr = run.communicate(timeout=30)
    if run.returncode != 0:  # it may have been faster
        assert not (tmp_path / "out").exists()
        assert run.returncode == (-9 if kill == signal.SIGKILL else 130)
        if kill == signal.SIGINT:
            assert "goes on from here" in stderr and stderr.count("\n") == 1
    assert quantize("demo", "-o", tmp_path / "out", "-q", "fp8_pb_wo", "-k", "fp8_cast", "--force").returncode == 0
    assert quantize("demo", "-o", tmp_path / "again", "-q", "fp8_pb_wo", "-k", "fp8_cast").returncode == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "again")
    assert sorted(os.listdir(tmp_path)) == ["again", "out"]
