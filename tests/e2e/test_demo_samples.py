"""The demo model's own pictures and sounds, through the openai package: what they show is answered right."""

import base64
import json

import pytest
from conftest import REPO

SAMPLES = REPO / "models/demo/samples"
ROWS = [json.loads(line) for line in (SAMPLES / "expected.jsonl").read_text().splitlines()] if SAMPLES.exists() else []


@pytest.mark.skipif(not ROWS, reason="this demo model neither sees nor hears")
@pytest.mark.parametrize("row", ROWS or [None], ids=lambda r: f"{r['file']}: {r['question']}" if r else "none")
def test_a_sample_is_understood(client, row):
    data = base64.b64encode((SAMPLES / row["file"]).read_bytes()).decode()
    medium = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}} if row["file"].endswith(".png") else {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    reply = client.chat.completions.create(model="default", messages=[{"role": "user", "content": [medium, {"type": "text", "text": row["question"]}]}], temperature=0, max_tokens=60)
    assert reply.choices[0].message.content == row["expected"]
