#!/usr/bin/env python3
"""Checks who includes whom: base <- formats <- (text | media | kernels) <- model <- (quant | engine) <- server <- eval <- app.

Also: CUDA headers only in kernels/cuda, intrinsics only in kernels/cpu, xgrammar's only in engine/grammar.cpp, and no heavy third-party header in a header of ours.
"""
import pathlib
import re
import sys

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"
MAY_INCLUDE = {
    "base": [],
    "formats": ["base"],
    "text": ["base", "formats"],
    "media": ["base", "formats"],
    "kernels": ["base"],
    "model": ["base", "formats", "kernels"],
    "quant": ["base", "formats", "text", "kernels", "model"],
    "engine": ["base", "formats", "text", "media", "kernels", "model"],
    "server": ["base", "text", "media", "model", "engine"],
    "eval": ["base", "formats", "text", "kernels", "model", "engine", "server"],
    "app": ["base", "formats", "text", "media", "kernels", "model", "quant", "engine", "server", "eval"],
}
HEAVY = re.compile(r"^(boost/|nlohmann/json\.hpp|simdjson\.h|spdlog/|CLI/)")
CUDA = re.compile(r"^(cuda|cublas|cutlass|cute/)")
INTRINSICS = re.compile(r"^(immintrin|x86intrin|arm_neon)\.h$")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def problems_of(path):
    relative = path.relative_to(SRC)
    room = relative.parts[0]
    for kind, target in INCLUDE.findall(path.read_text()):
        first = target.split("/")[0]
        if kind == '"' and first in MAY_INCLUDE and first != room and first not in MAY_INCLUDE[room]:
            yield f"{relative}: {room} may not include {target}"
        if path.suffix in (".h", ".cuh") and HEAVY.match(target):
            yield f"{relative}: {target} belongs in a .cpp"
        if CUDA.match(target) and relative.parts[:2] != ("kernels", "cuda"):
            yield f"{relative}: {target} belongs in kernels/cuda"
        if target.startswith("xgrammar/") and relative.as_posix() != "engine/grammar.cpp":
            yield f"{relative}: {target} belongs in engine/grammar.cpp"
        if INTRINSICS.match(target) and relative.parts[:2] != ("kernels", "cpu"):
            yield f"{relative}: {target} belongs in kernels/cpu"


def main():
    files = sorted(p for p in SRC.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))
    problems = [p for f in files for p in problems_of(f)]
    print("\n".join(problems) if problems else f"includes: {len(files)} files follow the rule")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
