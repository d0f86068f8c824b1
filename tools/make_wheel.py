#!/usr/bin/env python3
"""Makes a wheel of an installed tree: `cmake --install build/release --prefix TREE`, then `tools/make_wheel.py TREE --out DIR`.

The wheel has no Python in it. bin/nibble becomes a script of the environment, lib/ and share/ go beside it, so that the program finds its files as it does in any
other installation. Its tag names the C library it was linked with: what runs the program needs that version or a newer one, and nothing else.
"""
import argparse
import base64
import hashlib
import pathlib
import platform
import re
import stat
import subprocess
import zipfile

REPO = pathlib.Path(__file__).resolve().parent.parent
SUMMARY = "Serves Gemma 4 at four bits: one program, the OpenAI API, a chat page, evaluation and load tests"


def glibc_needed(binaries):
    """The newest GLIBC_x.y that any of the binaries asks for."""
    needed = (2, 17)
    for binary in binaries:
        text = subprocess.run(["objdump", "-T", binary], capture_output=True, text=True, check=True).stdout
        for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", text):
            needed = max(needed, (int(major), int(minor)))
    return needed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tree", type=pathlib.Path)
    p.add_argument("--out", type=pathlib.Path, required=True)
    a = p.parse_args()
    version = (REPO / "VERSION").read_text().strip()
    program = a.tree / "bin/nibble"
    major, minor = glibc_needed([program, *sorted((a.tree / "lib/nibble").glob("*.so*"))])
    tag = f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"
    info = f"nibble-{version}.dist-info"
    files = {}  # name in the wheel: bytes, executable
    # Wheels have no links: a library goes in once, under the name that the loader asks for.
    linked = {path.resolve() for path in a.tree.rglob("*") if path.is_symlink()}
    for path in sorted(a.tree.rglob("*")):
        if not path.is_file() or not path.is_symlink() and path.resolve() in linked:
            continue
        name = path.relative_to(a.tree).as_posix()
        place = "scripts/nibble" if name == "bin/nibble" else "data/" + name
        files[f"nibble-{version}.data/{place}"] = path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR)
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: nibble\nVersion: {version}\nSummary: {SUMMARY}\nLicense: Apache-2.0\nRequires-Python: >=3.8\n"
        f"Description-Content-Type: text/markdown\n\n{(REPO / 'README.md').read_text()}"
    ).encode(), False
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: nibble make_wheel\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(), False
    files[f"{info}/licenses/LICENSE"] = (REPO / "LICENSE").read_bytes(), False
    record = "".join(f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n" for name, (data, _) in files.items())
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode(), False

    a.out.mkdir(parents=True, exist_ok=True)
    wheel = a.out / f"nibble-{version}-{tag}.whl"
    temporary = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for name, (data, executable) in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the same bytes for the same tree
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(entry, data)
    temporary.rename(wheel)
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB, {sum(len(d) for d, _ in files.values()) / 1e6:.1f} MB installed, glibc {major}.{minor}")


if __name__ == "__main__":
    main()
