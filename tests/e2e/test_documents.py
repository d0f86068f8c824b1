"""Every command that README and the documents tell a reader to type is run here, in the order of its page, in a folder of its own.

Which lines are commands: in fenced blocks of `sh` and in indented ones, those that begin with nibble, build/dev/src/app/nibble, ./dev, curl, echo or cat, and python3 with a script of the repository (whose flags are read: most measure for minutes); a backslash, a
quote or a here-document goes on over lines. A comment before a block says that it cannot run here, and then only its flags are read (`nibble --parse-only`):

    <!-- gpu -->  <!-- real weights -->  <!-- long -->

or that it is about another machine, and then it is left alone: <!-- not here: WHY -->

Fenced blocks of `python` run too, against the same server.
"""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import NIBBLE, REPO, Server

PAGES = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "models/demo/README.md", *(REPO / "docs").rglob("*.md")])
MARK = re.compile(r"<!-- (gpu|real weights|long|not here: .+) -->")
COMMAND = re.compile(r"^(nibble|build/dev/src/app/nibble|\./dev|curl|echo|cat|python3 (bench|tools|training|tests)/\S+)( |$)")
DEV = {line.split()[0] for line in subprocess.run([REPO / "dev", "help"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]}


def commands(page):
    """(line number, command, marked) of a page."""
    fenced, shell, mark, block_mark, held = False, False, "", "", ""
    out, start, indented = [], 0, False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced, shell = not fenced, line.strip("`").strip() in ("sh", "bash")
            block_mark, mark = (mark, "") if fenced else ("", mark)
            continue
        if MARK.match(line):
            mark = MARK.match(line)[1]
            continue
        code = line if fenced else line[4:] if line.startswith("    ") else None
        if code is None:
            if indented and line.strip():
                block_mark, indented = "", False
            if line.strip():
                mark = ""
            continue
        if not fenced and not indented:
            indented, block_mark, mark = True, mark, ""
        if fenced and not shell:
            continue
        code = re.sub(r"\s+# .*$", "", code).rstrip()
        if not held and not COMMAND.match(code):
            continue
        start = start if held else number
        held = held[:-1] + " " + code.strip() if held.endswith("\\") else f"{held}\n{code}" if held else code
        here = re.search(r"<<'(\w+)'", held)
        if held.endswith("\\") or (here and code != here[1]) or (not here and held.count("'") % 2):
            continue  # a continued line, a document that goes on, a quoted body that goes on
        if not block_mark.startswith("not here"):
            out.append((start, held, block_mark))
        held = ""
    assert not held, f"{page.name}: a command that does not end: {held}"
    return out


def read_flags(command):
    words = shlex.split(command)
    for end in ("|", ">", "&", "2>", ">>"):
        if end in words:
            words = words[: words.index(end)]
    if words[0] == "./dev":
        assert (words + ["help"])[1] in DEV, f"./dev has no {words[1]}"
    elif words[0] == "python3":
        asked = subprocess.run([sys.executable, words[1], "--help"], cwd=REPO, capture_output=True, text=True, timeout=60)
        assert asked.returncode == 0, f"{command}: {asked.stderr}"
        unknown = {w.split("=")[0] for w in words[2:] if w.startswith("-")} - set(re.findall(r"(?<!\w)--?[a-z0-9][\w-]*", asked.stdout))
        assert not unknown, f"{command}: {words[1]} has no {unknown}"
    elif words[0] != "curl":
        ran = subprocess.run([NIBBLE, "--parse-only", *words[1:]], capture_output=True, text=True, timeout=30)
        asks = {"--help", "--help-all", "--version"} & set(words)
        assert ran.returncode == 0, f"{command}: {ran.stderr}"
        assert asks or not ran.stdout, ran.stdout


def run(command, folder, server):
    words = shlex.split(command)
    if words[0] in ("./dev", "python3"):
        return read_flags(command)  # each runs the whole of something: CI is ./dev test
    if words[:2] in (["nibble", "serve"], ["build/dev/src/app/nibble", "serve"]) and "--help" not in command:
        flags = words[2:]
        if "--port" in flags:
            del flags[flags.index("--port") : flags.index("--port") + 2]
        s = Server(*flags)
        return s.stop()
    text = command.replace("build/dev/src/app/nibble", "nibble").replace("http://127.0.0.1:30000", server.url)
    path = f"{os.path.dirname(NIBBLE)}:{os.environ['PATH']}"
    ran = subprocess.run(["bash", "-o", "pipefail", "-c", text], cwd=folder, input="Who are you?\n", capture_output=True, text=True, timeout=300, env=os.environ | {"PATH": path})
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
    if words[0] == "curl":
        assert '"error"' not in ran.stdout[:200], ran.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(REPO).as_posix())
def test_its_commands_work(page, tmp_path, server):
    (tmp_path / "models").symlink_to(REPO / "models")
    (tmp_path / "bench").symlink_to(REPO / "bench")
    for number, command, marked in commands(page):
        print(f"{page.name}:{number}: {'flags of ' if marked else ''}{command}")
        try:
            read_flags(command) if marked else run(command, tmp_path, server)
        except (AssertionError, subprocess.TimeoutExpired) as e:
            raise AssertionError(f"{page.name}:{number}: {e}") from e


SCRIPTS = [(page, code) for page in PAGES for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)]


@pytest.mark.parametrize(("page", "code"), SCRIPTS, ids=[page.relative_to(REPO).as_posix() for page, _ in SCRIPTS])
def test_its_scripts_work(page, code, server):
    ran = subprocess.run([sys.executable, "-c", code.replace("http://127.0.0.1:30000", server.url)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and ran.stdout.strip(), ran.stderr


def test_commands_are_found():
    """The reader above sees what is there: fenced, indented, continued, marked."""
    found = commands(REPO / "README.md")
    assert any(c.startswith("./dev demo") for _, c, _ in found) and any("/v1/chat/completions" in c for _, c, _ in found)
    serving = commands(REPO / "docs/guide/serving.md")
    assert any("--speculative-algorithm NEXTN" in c and marked for _, c, marked in serving)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
