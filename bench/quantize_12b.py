#!/usr/bin/env python3
"""Makes a BF16 checkpoint of the true 12B shape with random weights and quantizes it: wall time, peak memory and disk of each run, as JSON.

    bench/quantize_12b.py --nibble build/dev/src/app/nibble --work /some/disk --out OUT.json [--runs nvfp4_cpu,nvfp4_cuda,nvfp4_calibrated_cuda,fp8_cuda] [--budget 400]

Wants 37 GB of disk in --work (its folder is removed at the end) and no network. A run that would begin after --budget seconds is skipped and listed as such.
Where both ran, the CPU's and the GPU's files are compared byte by byte. Peak memory is VmHWM, sampled: it counts mapped pages of the source as well as our own;
`peak_anonymous_bytes` counts our own alone.
"""
import argparse
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
RUNS = {
    "nvfp4_cpu": ["-q", "nvfp4_mlp_only", "-a", "mse", "-k", "fp8_cast", "--calib_size", "0", "--no-fidelity", "--device", "cpu"],
    "nvfp4_cuda": ["-q", "nvfp4_mlp_only", "-a", "mse", "-k", "fp8_cast", "--calib_size", "0", "--no-fidelity", "--device", "cuda"],
    "nvfp4_calibrated_cuda": ["-q", "nvfp4_mlp_only", "-a", "mse", "-k", "fp8", "--calib-data", "{ids}", "--no-fidelity", "--device", "cuda"],
    "fp8_cpu": ["-q", "fp8_pb_wo", "-a", "mse", "-k", "fp8_cast", "--no-fidelity", "--device", "cpu"],
    "fp8_cuda": ["-q", "fp8_pb_wo", "-a", "mse", "-k", "fp8_cast", "--no-fidelity", "--device", "cuda"],
}


def status(pid):
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {k: int(v.split()[0]) * 1024 for k, v in (line.split(":", 1) for line in lines) if k in ("VmHWM", "RssAnon")}


def watch(command, log):
    """Runs a command; its exit status, seconds, peak memory, peak of its own (anonymous) memory."""
    began = time.monotonic()
    peak = anonymous = 0
    with open(log, "w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while child.poll() is None:
            now = status(child.pid)
            peak = max(peak, now.get("VmHWM", 0))
            anonymous = max(anonymous, now.get("RssAnon", 0))
            time.sleep(0.05)
    return {"command": " ".join(map(str, command)), "exit": child.returncode, "seconds": round(time.monotonic() - began, 2), "peak_rss_bytes": peak, "peak_anonymous_bytes": anonymous}


def sha256(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def random_ids(path, samples, tokens, vocabulary):
    """Token ids without a tokenizer: the model is noise anyway, and the work is the same."""
    state = 88172645463325252
    with open(path, "w") as out:
        for _ in range(samples):
            ids = [2]
            while len(ids) < tokens:
                state ^= state << 13 & 0xFFFFFFFFFFFFFFFF
                state ^= state >> 7
                state ^= state << 17 & 0xFFFFFFFFFFFFFFFF
                ids.append(state % (vocabulary - 1000))
            out.write(json.dumps({"ids": ids}) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nibble", default=str(REPO / "build/dev/src/app/nibble"))
    p.add_argument("--config", default=str(REPO / "models/configs/gemma-4-12b-it"))
    p.add_argument("--work", required=True, help="a folder on a disk with 37 GB free")
    p.add_argument("--out", required=True)
    p.add_argument("--runs", default="nvfp4_cpu,nvfp4_cuda,nvfp4_calibrated_cuda", help=", ".join(RUNS))
    p.add_argument("--budget", type=float, default=330, help="seconds after which no run begins")
    p.add_argument("--calib-samples", type=int, default=512)
    args = p.parse_args()
    began = time.monotonic()
    work = pathlib.Path(args.work) / "nibble-quantize-12b"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    commit = subprocess.run(["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    report = {"machine": f"{cpu}, {len(os.sched_getaffinity(0))} cores, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB", "commit": commit, "disk_free_bytes": shutil.disk_usage(work).free, "runs": {}}
    hashes = {}

    def save():
        report["total_seconds"] = round(time.monotonic() - began, 1)
        pathlib.Path(args.out).write_text(json.dumps(report, indent=1) + "\n")

    def log(text):
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    try:
        source = work / "bf16"
        report["make"] = watch([args.nibble, "bench", "checkpoint", args.config, source], work / "make.log")
        log(f"made: {report['make']} {(work / 'make.log').read_text().strip()}")
        if report["make"]["exit"] != 0:
            return 1
        report["source_bytes"] = sum(f.stat().st_size for f in source.glob("*.safetensors"))
        vocabulary = json.loads((source / "config.json").read_text())["text_config"]["vocab_size"]
        ids = work / "ids.jsonl"
        random_ids(ids, args.calib_samples, 512, vocabulary)
        for name in args.runs.split(","):
            if time.monotonic() - began > args.budget:
                report["runs"][name] = {"skipped": f"{time.monotonic() - began:.0f} s had passed"}
                continue
            target = work / name
            flags = [str(ids) if flag == "{ids}" else flag for flag in RUNS[name]]
            run = watch([args.nibble, "quantize", source, "-o", target, *flags], work / "run.log")
            text = (work / "run.log").read_text()
            if run["exit"] == 0:
                inside = json.loads((target / "report.json").read_text())
                run |= {key: inside[key] for key in ("bytes_before", "bytes_after", "seconds", "sqnr_db", "sqnr_db_max", "quantized_matrices")} | {"wall_seconds": run["seconds"]}
                if isinstance(inside["calibration"], dict):
                    run["calibration"] = {key: inside["calibration"].get(key) for key in ("samples", "tokens", "seconds", "device")}
                if name in ("nvfp4_cpu", "nvfp4_cuda"):
                    hashes[name] = sha256(target)
                    run["sha256"] = hashes[name]
            else:
                run["log"] = text[-2000:]
            report["runs"][name] = run
            shutil.rmtree(target, ignore_errors=True)
            shutil.rmtree(str(target) + ".partial", ignore_errors=True)
            log(f"{name}: {json.dumps(run)}")
            save()
        if len(hashes) == 2:
            report["cpu_and_gpu_files_are_equal"] = len(set(hashes.values())) == 1
            log(f"the CPU's and the GPU's files are equal: {report['cpu_and_gpu_files_are_equal']}")
    finally:
        save()
        shutil.rmtree(work, ignore_errors=True)
    return 0 if all(run.get("exit", 0) == 0 for run in report["runs"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
