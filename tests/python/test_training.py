"""The demo model's data and template, without torch."""

import json
import pathlib
import random
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from training import evaluate, generators, render  # noqa: E402
from training.words import held_out  # noqa: E402

GOLDENS = json.loads((REPO / "tests/data/serving/chat_template.json").read_text())


@pytest.fixture(scope="module")
def template():
    return render.load_template(REPO / "models/demo/chat_template.jinja")


@pytest.mark.parametrize("case", GOLDENS["cases"], ids=lambda c: c["id"])
def test_our_template_renders_as_the_12b_s(template, case):
    wanted = case["expected"]["gemma-4-mid2026.jinja"]
    try:
        got = template.render(messages=case["messages"], tools=case.get("tools"), documents=None, add_generation_prompt=case.get("add_generation_prompt", True),
                              **GOLDENS["special_tokens"], **case.get("kwargs", {}))
    except Exception:
        got = None
    assert got == wanted.get("text")


def test_generators_are_deterministic():
    draw = lambda: [generators.draw(r) for r in [random.Random(3)] for _ in range(200)]
    assert json.dumps(draw(), default=str) == json.dumps(draw(), default=str)


def test_no_held_out_question_is_trained():
    r = random.Random(11)
    trained = {json.dumps(generators.draw(r)["messages"]) for _ in range(20000)}
    for name in ("wordmath-numbers", "wordmath-templates", "arith", "tools-unseen", "facts"):
        for s, _ in evaluate.held_out_samples(name, 60):
            assert json.dumps(s["messages"]) not in trained, name


def test_answers_are_right():
    r = random.Random(5)
    for _ in range(2000):
        question, lines, result, _ = generators.word_problem(r)
        for line in lines:
            left, right = line.split(": ")[1].split(" = ")
            assert eval(left) == int(right)  # our own arithmetic, not input
        assert int(lines[-1].split(" = ")[1]) == result
        e, result, steps = generators.arithmetic(r)
        assert eval(e) == result


def test_one_in_ten_is_held_out():
    assert 0.07 < sum(held_out("x", i) for i in range(5000)) / 5000 < 0.13


def test_the_assistant_s_trainer_runs_to_its_end(tmp_path):
    pytest.importorskip("torch")
    import subprocess

    subprocess.run([sys.executable, "-m", "training.make_assistant", "--target", "models/demo", "--out", str(tmp_path), "--smoke", "--steps", "3"], cwd=REPO, check=True, timeout=300)
    result = json.loads((tmp_path / "training.json").read_text())["acceptance_greedy_k5"]
    assert 1 <= result["accept_length"] <= 6 and (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / "config.json").read_text())["backbone_hidden_size"] == 256
