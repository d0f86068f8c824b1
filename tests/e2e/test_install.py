"""What is installed: a tree that can be moved, completion, the man page; and what happens where FFmpeg is not."""

import os
import pathlib
import shutil
import subprocess

import openai
import pytest
from conftest import NIBBLE, Server
from test_media import OVERRIDE, ask, sound, text

BUILD = pathlib.Path(NIBBLE).parents[2]


def nibble(*args, **more):
    return subprocess.run([NIBBLE, *args], capture_output=True, text=True, timeout=60, **more)


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "nibble.bash"
    path.write_text(nibble("completion", "bash").stdout)
    return path


def completed(script, *words):
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _nibble; printf "%s\\n" "${COMPREPLY[@]}"'
    r = subprocess.run(["bash", "-u", "-c", code, "bash", script, *words], capture_output=True, text=True, cwd=script.parent)
    assert r.returncode == 0 and not r.stderr, r.stderr
    return r.stdout.split()


def test_bash_completes_commands_flags_and_values(bash_script):
    assert {"serve", "chat", "bench", "eval"} <= set(completed(bash_script, "nibble", ""))
    assert completed(bash_script, "nibble", "ser") == ["serve"]
    assert {"serving", "offline", "ops"} <= set(completed(bash_script, "nibble", "bench", ""))
    assert completed(bash_script, "nibble", "serve", "demo", "--devi") == ["--device"]
    assert completed(bash_script, "nibble", "serve", "--device", "c") == ["cpu", "cuda"]
    assert "--concurrency" in completed(bash_script, "nibble", "bench", "serving", "--c")
    assert completed(bash_script, "nibble", "chat", "nib") == ["nibble.bash"]  # files


def test_every_flag_of_serve_is_completed_and_in_the_man_page(bash_script):
    flags = {line.split()[0] for line in nibble("serve", "--help").stdout.splitlines() if line.startswith("  --")}
    assert len(flags) > 60 and flags <= set(completed(bash_script, "nibble", "serve", "--"))
    page = nibble("man").stdout.replace("\\-", "-")
    assert [f for f in flags if f"\\fB{f}\\fR" not in page] == []


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_reads_its_script(tmp_path):
    (tmp_path / "_nibble").write_text(nibble("completion", "zsh").stdout)
    r = subprocess.run(["zsh", "-f", "-n", str(tmp_path / "_nibble")], capture_output=True, text=True)
    assert r.returncode == 0 and not r.stderr, r.stderr
    # Loaded by the real completion system, every function is there and none fails to parse.
    r = subprocess.run(["zsh", "-f", "-c", f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[nibble]; autoload +X _nibble && print loaded"], capture_output=True, text=True)
    assert r.stdout.split() == ["_nibble", "loaded"], r.stdout + r.stderr


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_man_page_has_no_warnings():
    r = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z"], input=nibble("man").stdout, capture_output=True, text=True)
    assert r.returncode == 0 and r.stderr == ""


def test_an_installed_tree_can_be_moved(tmp_path):
    done = subprocess.run(["cmake", "--install", BUILD, "--prefix", tmp_path / "first"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "first").rename(tmp_path / "moved here")
    tree = tmp_path / "moved here"
    assert (tree / "share/man/man1/nibble.1").stat().st_size > 1000 and (tree / "share/bash-completion/completions/nibble").exists() and (tree / "share/zsh/site-functions/_nibble").exists()
    r = subprocess.run([tree / "bin/nibble", "inspect", "checkpoint", "demo"], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 0 and str(tree / "share/nibble/demo") in r.stdout + r.stderr, r.stdout + r.stderr


def test_without_ffmpeg_text_works_and_sound_says_what_is_missing(tmp_path, monkeypatch):
    libraries = [line for line in subprocess.run(["ldd", NIBBLE], capture_output=True, text=True).stdout.splitlines() if "libav" in line or "libsw" in line]
    assert libraries == []  # loaded when the first sound comes, not at the start
    # A broken file of the library's name, found before the real one.
    for name in ("libavutil.so.57", "libavcodec.so.59", "libavformat.so.59", "libswscale.so.6"):
        (tmp_path / name).write_bytes(b"")
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    assert nibble("chat", "demo", "--temperature", "0", input="Who are you?\n", env=environment).returncode == 0
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    seeing = Server("--load-format", "dummy", "--device", "cpu", "--json-model-override-args", OVERRIDE)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(seeing.client(), sound("sweep_0.5s.wav"), text("What is this?"))
    assert "libavutil.so.57" in str(refused.value) and "libavformat59" in str(refused.value)
    assert seeing.stop() == 0
