"""Live comparisons with the reference implementations; the packages come from tools/requirements-oracle.txt."""
import json
import os
import pathlib
import subprocess

REPO = pathlib.Path(__file__).resolve().parents[2]
NIBBLE = os.environ.get("NIBBLE", str(REPO / "build/dev/src/app/nibble"))


def inspect(what, model, requests, *flags):
    """The replies of `nibble inspect` to JSON requests, one a line."""
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run([NIBBLE, "inspect", what, str(model), *flags], input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
