"""Logits and greedy continuations against transformers, on the tiny models and the demo, all in f32."""
import json

import numpy as np
import pytest
import torch
from conftest import REPO, inspect
from safetensors.numpy import load_file
from transformers import Gemma4UnifiedForConditionalGeneration

TOLERANCE = 2e-4  # two orders of summation in f32 differ by up to 5e-5 on these models; anything wrong by far more


@pytest.fixture(scope="module", params=["tests/data/model/tiny", "tests/data/model/tiny-realdims", "models/demo"])
def pair(request):
    folder = REPO / request.param
    model = Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # In the checkpoint's own precision the embedding's factor is a bf16; it stays one in f32.
    embedding = model.model.language_model.embed_tokens
    embedding.embed_scale.copy_(embedding.embed_scale.to(torch.bfloat16).float())
    config = json.loads((folder / "config.json").read_text())
    # Soft tokens and their borders lie at the end of these vocabularies and are no text.
    return folder, model, config["text_config"]["vocab_size"] - 16


def logits_of(folder, ids, tmp_path, *flags):
    out = tmp_path / "logits.safetensors"
    inspect("logits", folder, [{"ids": ids, "rows": "all"}], "--dtype", "float32", "--kv-cache-dtype", "float32", "--out", str(out), *flags)
    (logits,) = load_file(out).values()
    return logits


@pytest.mark.parametrize("length", [1, 7, 65, 300])
def test_logits(pair, length, tmp_path):
    folder, model, vocab = pair
    ids = [2, *np.random.default_rng(length).integers(3, vocab, length - 1).tolist()]
    with torch.no_grad():
        want = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    for flags in ([], ["--chunk", "13"]):
        assert np.abs(logits_of(folder, ids, tmp_path, *flags) - want).max() < TOLERANCE


def test_greedy_continuation(pair):
    folder, model, vocab = pair
    ids = [2, *np.random.default_rng(99).integers(3, vocab, 20).tolist()]
    with torch.no_grad():
        for _ in range(24):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    (reply,) = inspect("generate", folder, [{"ids": ids[:21], "max_new_tokens": 24, "ignore_eos": True}], "--dtype", "float32", "--kv-cache-dtype", "float32")
    assert reply["ids"] == ids[21:]
