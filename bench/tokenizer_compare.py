#!/usr/bin/env python3
"""Encodes the same mixed documents with the Rust `tokenizers` library and with ours, one thread each, in one run; prints the ratio and writes JSON.

    python3 bench/tokenizer_compare.py TOKENIZER.json [BENCH_BINARY]
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
REPO = pathlib.Path(__file__).resolve().parent.parent


def documents():
    """2,000-character documents: English Markdown, C++ and many languages, about a quarter, a third and a third."""
    prose = "\n".join(p.read_text() for p in sorted(REPO.glob("**/*.md")) if "build" not in p.parts and ".venv" not in p.parts)
    code = "\n".join(p.read_text() for p in sorted((REPO / "src").glob("**/*.cpp")))
    cases = json.loads((REPO / "tests/data/tokenizer/gemma4-encode.json").read_text())["cases"]
    languages = "\n".join(c["text"] for c in cases if c["name"].startswith("language")) * 12
    cut = lambda text, size: [text[i : i + 2000] for i in range(0, min(len(text), size), 2000)]
    return cut(prose * 20, 500_000) + cut(code * 4, 750_000) + cut(languages * 20, 750_000)


def main():
    from tokenizers import Tokenizer, __version__

    path, binary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(REPO / "build/dev/src/text/nibble_text_bench")
    docs = documents()
    size = sum(len(d.encode()) for d in docs)
    began = time.perf_counter()
    rust = Tokenizer.from_file(path)
    rust_load = time.perf_counter() - began
    best = min(_timed(rust, docs) for _ in range(3))
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"\0".join(d.encode() for d in docs))
        f.flush()
        out = subprocess.run([binary, "--benchmark_format=json"], env={**os.environ, "NIBBLE_BENCH_TOKENIZER": path, "NIBBLE_BENCH_DOCUMENTS": f.name}, capture_output=True, check=True).stdout
    ours = {b["name"]: b for b in json.loads(out)["benchmarks"]}
    report = {
        "command": "bench/tokenizer_compare.py", "documents": len(docs), "bytes": size, "rust_version": __version__,
        "rust_encode_bytes_per_second": size / best, "rust_load_seconds": rust_load,
        "encode_bytes_per_second": ours["encode_documents"]["bytes_per_second"], "ratio": ours["encode_documents"]["bytes_per_second"] / (size / best),
        "load_seconds": ours["load"]["real_time"] / 1e3, "one_letter_bytes_per_second": ours["encode_one_letter"]["bytes_per_second"],
        "random_letters_bytes_per_second": ours["encode_random_letters"]["bytes_per_second"], "decode_tokens_per_second": ours["decode_documents"]["items_per_second"],
    }
    print(json.dumps(report, indent=1))
    (REPO / "bench/results/tokenizer.json").write_text(json.dumps(report, indent=1) + "\n")


def _timed(rust, docs):
    began = time.perf_counter()
    for d in docs:
        rust.encode(d, add_special_tokens=False)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
