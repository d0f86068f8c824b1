"""The tokenizer against tokenizers and the chat template against jinja2, on random input."""
import json
import os
import pathlib
import random
import subprocess
import sys

import jinja2
import pytest
from conftest import REPO, inspect
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

SHARED = pathlib.Path(os.environ.get("NIBBLE_SHARED_DIR", REPO.parent / "shared"))
PIECES = ["the ", " quick", "\n\n", "\t", "  ", "apples", "Größe", "日本語", "👩‍👩‍👧", "e\u0301", "\u2581", "\x00", "0123", "<|turn>", "<turn|>", "<bos>", "def f(x):\n    return x", "zzzzzz", "مرحبا", "\u200b", "<0x0A>", "'s"]


def random_text(rng):
    return "".join(rng.choice(PIECES) if rng.random() < 0.7 else chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0x2FFF), rng.randrange(0x10000, 0x1FFFF)])) * rng.randrange(1, 40) for _ in range(rng.randrange(1, 60)))


@pytest.fixture(scope="module", params=["demo", "gemma4"])
def tokenizer_folder(request, tmp_path_factory):
    if request.param == "demo":
        return REPO / "models/demo"
    script = SHARED / "tokenizer/rebuild_tokenizer.py"
    if not script.exists():
        pytest.skip("shared/tokenizer is not beside the repository")
    folder = tmp_path_factory.mktemp("gemma4")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text((REPO / "models/demo/config.json").read_text())
    return folder


def test_encoding(tokenizer_folder):
    rng = random.Random(7)
    texts = [random_text(rng) for _ in range(400)]
    reference = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    replies = inspect("tokens", tokenizer_folder, [{"text": t} for t in texts])
    for text, reply in zip(texts, replies, strict=True):
        assert reply["ids"] == reference.encode(text, add_special_tokens=False).ids, repr(text)


def random_conversation(rng):
    roles, messages = ["user", "assistant"], []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": random_text(rng)})
    for i in range(rng.randrange(1, 6) * 2 - 1):
        messages.append({"role": roles[i % 2], "content": random_text(rng).replace("\x00", "")})
    return messages


def test_chat_template():
    folder = REPO / "models/demo"
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda x, **_: json.dumps(x, ensure_ascii=False)

    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    environment.globals["raise_exception"] = refuse
    template = environment.from_string((folder / "chat_template.jinja").read_text())
    tool = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
    rng = random.Random(3)
    requests = []
    for i in range(100):
        request = {"messages": random_conversation(rng), "chat_template_kwargs": {"enable_thinking": i % 3 == 0}}
        if i % 4 == 0:
            request["tools"] = [tool]
        requests.append(request)
    for request, reply in zip(requests, inspect("prompt", folder, requests), strict=True):
        want = template.render(messages=request["messages"], tools=request.get("tools"), bos_token="<bos>", add_generation_prompt=True, **request["chat_template_kwargs"])
        assert reply["prompt"] == want
