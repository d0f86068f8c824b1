"""The demo model's data and template, without torch."""

import hashlib
import itertools
import json
import pathlib
import random
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from training import evaluate, generators, images, media, problems, render, tools  # noqa: E402
from training.words import TEST_SYLLABLES, held_out, random_word  # noqa: E402

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


def shown(s):
    """What of a sample can be compared: its media by their bytes."""
    return json.dumps({**s, "media": [hashlib.sha256(m["rgb"].tobytes() if m["kind"] == "image" else m["samples"].tobytes()).hexdigest() for m in s["media"]]})


def test_generators_are_deterministic():
    pytest.importorskip("numpy")
    draw = lambda: [shown(s) for s in itertools.islice(generators.stream(3), 200)]
    assert draw() == draw()


def text_sample(r):
    makers = [(g, w) for g, w in generators.GENERATORS if g not in (generators.make_image, generators.make_audio)]
    return r.choices([g for g, _ in makers], [w for _, w in makers])[0](r)


def test_no_held_out_question_is_trained():
    r = random.Random(11)
    trained = {json.dumps(text_sample(r)["messages"]) for _ in range(20000)}
    for name in ("wordmath-numbers", "wordmath-templates", "arith", "tools-unseen", "facts"):
        for s, _ in evaluate.held_out_samples(name, 60):
            assert json.dumps(s["messages"]) not in trained, name


def test_answers_are_right():
    r = random.Random(5)
    for _ in range(2000):
        question, lines, result, _ = problems.word_problem(r)
        for line in lines:
            left, right = line.split(": ")[1].split(" = ")
            assert eval(left) == int(right)  # our own arithmetic, not input
        assert int(lines[-1].split(" = ")[1]) == result
        e, result, steps, _ = problems.arithmetic(r)
        assert eval(e) == result


def test_calls_are_written_as_the_template_shows_them(template):
    r = random.Random(6)
    for _ in range(200):
        _, tool, question, arguments = tools.made_up_tool(r)
        name = tool["function"]["name"]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}]
        assert tools.call_text(name, arguments) in template.render(messages=messages, tools=[tool], documents=None, add_generation_prompt=False, bos_token="")


def test_made_up_words_never_have_a_held_out_syllable():
    r = random.Random(7)
    assert not any(t in random_word(r) for _ in range(3000) for t in TEST_SYLLABLES)


def test_plain_prompts_are_what_the_template_renders(template):
    r = random.Random(8)
    for _ in range(300):
        s = text_sample(r)
        if s["tools"]:
            continue
        kwargs = {"enable_thinking": True} if s["thinking"] else {}
        assert render.Renderer.plain_prompt(s["messages"], s["thinking"]) == template.render(messages=s["messages"], tools=None, documents=None, add_generation_prompt=True, bos_token="<bos>", **kwargs)


def test_pictures_are_resized_and_cut_as_the_processor_does():
    pytest.importorskip("numpy")
    rows = [row for row in json.loads((REPO / "tests/data/model/geometry.json").read_text())["rows"] if row[3]]
    assert len(rows) > 20
    for width, height, budget, wanted_width, wanted_height, _ in rows:
        assert media.target_size(width, height, budget) == (wanted_width, wanted_height)


def test_answers_about_pictures_follow_from_what_was_drawn():
    pytest.importorskip("numpy")
    r = random.Random(9)
    for _ in range(60):
        _, items = images.scene(r)
        assert not any((i["kind"], i["colour"]) in images.HELD_OUT_PAIRS for i in items)
        q, a = images.question(r, items)
        if q.startswith(("How many shapes", "Count the shapes")) and " are " in q and not any(c in q for c in images.COLOURS):
            assert a == images.counted(len(items), "shape")


def test_every_colour_keeps_a_hue_of_its_own():
    """The model's first norm takes brightness and contrast away: what is left, jitter included, must name the colour."""
    np = pytest.importorskip("numpy")
    r = random.Random(14)
    hue = lambda c: (c - c.mean()) / np.linalg.norm(c - c.mean())
    wanted = {name: hue(np.array(c, float)) for name, c in images.COLOURS.items()}
    for name in images.COLOURS:
        for _ in range(300):
            canvas = np.full((48, 48, 3), r.uniform(0, 255), np.float32)
            images.draw_shape(r, canvas, dict(kind="circle", colour=name, cx=24, cy=24, radius=20))
            assert max(wanted, key=lambda n: float(wanted[n] @ hue(canvas[24, 24].astype(float)))) == name


def test_pictures_begin_as_cosines():
    torch = pytest.importorskip("torch")
    from training import config
    from training.model import MediaEmbedder

    media_embedder = MediaEmbedder(config.model_config(512, dict.fromkeys(["<|image|>", "<|audio|>", "<|video|>", "<|image>", "<image|>", "<|audio>", "<audio|>"], 500)))
    media_embedder.initialize()
    rows = media_embedder.patch_dense.weight
    sizes = rows.detach().norm(dim=1)
    unit = rows / sizes[:, None]
    assert torch.allclose(unit @ unit.T, torch.eye(len(rows)), atol=1e-4)
    assert sizes[-1] > 20 * sizes[:3].max() and (sizes.diff() > -1e-4).all()  # the details are raised


def test_one_in_ten_is_held_out():
    assert 0.07 < sum(held_out("x", i) for i in range(5000)) / 5000 < 0.13


def test_decoding_over_kept_keys_says_what_whole_forwards_say():
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from training import decode, packing
    from training.model import Model

    model = Model.load(REPO / "models/demo").requires_grad_(False)
    renderer = render.Renderer(REPO / "models/demo/chat_template.jinja", Tokenizer.from_file(str(REPO / "models/demo/tokenizer.json")))
    r = random.Random(13)
    made = generators.make_recall(r, 6), *(text_sample(r) for _ in range(6)), *([generators.make_image(r), generators.make_audio(r)] if model.media else [])
    prompts = [decode.encoded_prompt(renderer, s) for s in made]
    assert max(len(p[0]) for p in prompts) > model.config["sliding_window"]
    for (ids, blocks, soft), reply in zip(prompts, decode.replies(model, prompts, "cpu", 12)):
        whole = torch.tensor([ids + reply[:-1]])
        blocks = torch.nn.functional.pad(torch.from_numpy(blocks), (0, len(reply) - 1))[None]
        soft = {k: torch.from_numpy(v) for k, v in packing.soft_batch([soft], whole.shape[1]).items()} if soft else None
        hidden = model(whole, torch.arange(whole.shape[1])[None], torch.zeros_like(whole), blocks, soft)
        assert model.logits(hidden[0, len(ids) - 1 :]).argmax(-1).tolist() == reply


def test_the_check_of_compiled_layers_tells_a_wrong_mask_from_rounding():
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer

    from training import compiled, config, packing, train
    from training.attention import dense_masks
    from training.model import Model

    folder = REPO / "models/demo"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = {t["content"]: t["id"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    torch.manual_seed(0)
    model = Model(config.model_config(tokenizer.get_vocab_size(), ids))
    model.initialize()
    b = train.move(next(packing.batches(packing.encoded_stream(generators.stream(1001), render.Renderer(folder / "chat_template.jinja", tokenizer)), 512, 1)), "cpu")
    window, plain = model.config["sliding_window"], [layer.forward for layer in model.layers]
    passes = lambda masks, bf16=(True, True): compiled.same(compiled.differences(model, b, plain, masks, bf16))[1]
    good = dense_masks(b["samples"], b["blocks"], window)
    assert passes(good, (False, True))
    assert not passes(dense_masks(b["samples"], b["blocks"], window + 128))
    assert not passes({**good, "full_attention": (b["samples"][:, :, None] == b["samples"][:, None, :])[:, None]})


def test_the_assistant_s_trainer_runs_to_its_end(tmp_path):
    pytest.importorskip("torch")
    import subprocess

    subprocess.run([sys.executable, "-m", "training.make_assistant", "--target", "models/demo", "--out", str(tmp_path), "--smoke", "--steps", "3"], cwd=REPO, check=True, timeout=300)
    result = json.loads((tmp_path / "training.json").read_text())["acceptance_greedy_k5"]
    assert 1 <= result["accept_length"] <= 6 and (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / "config.json").read_text())["backbone_hidden_size"] == 256
