"""Runs a Google Benchmark program and says where it ran: what every file of bench/results has at its head."""
import json
import os
import pathlib
import subprocess
import time

REPO = pathlib.Path(__file__).resolve().parent.parent


def text_of(*command):
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()


def run_bench(bench, name, realtime=False):
    return json.loads(text_of(*(["chrt", "-r", "1"] if realtime else []), bench, f"--benchmark_filter={name}", "--benchmark_format=json"))


def head(command, load_average, realtime=False):
    cpu = next(line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "command": command + (" --realtime" if realtime else ""), "machine": cpu, "cores": os.cpu_count(), "kernel": text_of("uname", "-r"),
        "scheduler": "SCHED_RR" if realtime else f"SCHED_OTHER, nice {os.nice(0)}", "load_average_before": load_average,
        "commit": text_of("git", "describe", "--always", "--dirty", "--exclude", "*"), "unix_seconds": int(time.time()),
    }


def store(name, report):
    (REPO / "bench/results" / name).write_text(json.dumps(report, indent=1) + "\n")
