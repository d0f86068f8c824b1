"""The demo model's vocabulary, in the layout of Gemma 4's: ids 0..493 are the same, learnt pieces follow, the seven media tokens come last."""

import json
import re

SPACE = "\u2581"
MEDIA = ["<|image>", "<|audio>", "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>"]
SPECIAL = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>", 49: "<tool_call|>", 50: "<|tool_response>",
           51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>", 100: "<|channel>", 101: "<channel|>", 105: "<|turn>", 106: "<turn|>"}
HTML = ["table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"]


def fixed_tokens(reference):
    """Strings of ids 0..493, from any tokenizer.json of the layout."""
    by_id = {i: t for t, i in reference["model"]["vocab"].items()}
    return [by_id[i] for i in range(494)]


def learn_pieces(texts, count):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Replace(" ", SPACE)
    t.pre_tokenizer = pre_tokenizers.Split(Regex(f"[0-9]|\\n+|{SPACE}?[A-Za-z]+|{SPACE}?[^A-Za-z0-9{SPACE}\\n]+|{SPACE}"), "isolated")
    alphabet = [chr(c) for c in range(33, 127)] + [SPACE]
    trainer = trainers.BpeTrainer(vocab_size=count, min_frequency=20, initial_alphabet=alphabet, show_progress=False)
    parts = re.compile("|".join(map(re.escape, [*SPECIAL.values(), *MEDIA])))  # never parts of a piece
    t.train_from_iterator((part for text in texts for part in parts.split(text) if part), trainer)
    learnt = json.loads(t.to_str())["model"]
    return [p for p, _ in sorted(learnt["vocab"].items(), key=lambda x: x[1])], learnt["merges"]


def build(texts, reference, vocab_size=3072):
    """tokenizer.json as a dict. The size shrinks to a multiple of 128 if the texts do not fill it."""
    tokens = fixed_tokens(reference)
    known = set(tokens)
    pieces, merges = learn_pieces(texts, vocab_size - len(tokens) - len(MEDIA) + sum(1 for c in range(33, 127) if chr(c) in known) + 1)
    fresh = [p for p in pieces if p not in known]
    room = (min(vocab_size, len(tokens) + len(fresh) + len(MEDIA)) // 128) * 128 - len(tokens) - len(MEDIA)
    tokens += fresh[:room] + MEDIA
    vocab = {t: i for i, t in enumerate(tokens)}
    assert len(vocab) == len(tokens) and len(tokens) % 128 == 0
    # Runs of white space merge first, as in the original; then what was learnt, where both parts and the result made it into the vocabulary.
    runs = [m for m in reference["model"]["merges"] if set("".join(m)) in ({"\n"}, {SPACE}, {"\t"}) and all(x in vocab for x in (*m, "".join(m)))]
    seen = {tuple(m) for m in runs}
    learnt = [list(m) if not isinstance(m, str) else m.split(" ") for m in merges]
    learnt = [m for m in learnt if all(x in vocab for x in (*m, "".join(m))) and tuple(m) not in seen]
    out = dict(reference)
    out["model"] = dict(reference["model"], vocab=vocab, merges=runs + learnt)
    ids = {**{t: i for i, t in SPECIAL.items()}, **{t: vocab[t] for t in MEDIA}}
    out["added_tokens"] = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                           for t, i in sorted(ids.items(), key=lambda x: x[1])]
    return out
