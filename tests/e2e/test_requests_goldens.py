"""Recorded requests and the status, code and field that they must give, on random weights with the real vocabulary (skipped where that is not at hand)."""

import json
import os
import pathlib
import subprocess
import sys

import httpx
import pytest
from conftest import REPO, Server

SHARED = pathlib.Path(os.environ.get("NIBBLE_SHARED_DIR", REPO.parent / "shared"))
GOLDENS = json.loads((REPO / "tests/data/serving/requests.json").read_text())["cases"]


@pytest.fixture(scope="module")
def big_vocabulary(tmp_path_factory):
    rebuild = SHARED / "tokenizer/rebuild_tokenizer.py"
    if not rebuild.exists():
        pytest.skip("the real vocabulary is not here (set NIBBLE_SHARED_DIR)")
    folder = tmp_path_factory.mktemp("model")
    subprocess.run([sys.executable, str(rebuild), str(folder)], check=True, capture_output=True)
    config = json.loads((REPO / "tests/data/model/tiny/config.json").read_text())
    config["text_config"]["vocab_size"] = 262144
    config["vision_config"] = config["audio_config"] = None
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 106, 50], "suppress_tokens": [258883, 258882], "temperature": 1.0, "top_k": 64, "top_p": 0.95}))
    (folder / "chat_template.jinja").write_text((REPO / "models/demo/chat_template.jinja").read_text())
    server = Server("--model-path", str(folder), "--load-format", "dummy", "--context-length", "4096")
    yield server
    server.stop()


@pytest.mark.parametrize("case", GOLDENS, ids=lambda c: c["id"])
def test_status_code_and_field(big_vocabulary, case):
    body = bytes.fromhex(case["raw_body_hex"]) if "raw_body_hex" in case else case["raw_body"].encode() if "raw_body" in case else json.dumps(case["body"]).encode() if "body" in case else b""
    headers = {"Content-Type": "application/json", **case.get("headers", {})}
    r = httpx.request(case.get("method", "POST"), big_vocabulary.url + case["route"], content=body, headers=headers, timeout=60)
    assert r.status_code == case["status"], r.text[:300]
    if case["status"] >= 400 and case.get("code"):
        assert r.json()["error"]["code"] == case["code"], r.text[:300]
