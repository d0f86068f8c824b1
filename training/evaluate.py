"""Held-out sets of the demo model, their JSONL files, and greedy accuracy."""

import json
import pathlib
import random

from training import generators as g
from training.words import held_out


def held_out_samples(name, count):
    """[(sample, wanted)]: the same ones every time."""
    r = random.Random(f"eval {name}")
    out, seen = [], set()
    while len(out) < count:
        s, wanted = MAKERS[name](r)
        key = json.dumps([s["messages"], s["tools"]], default=str)
        if s is not None and key not in seen:
            seen.add(key)
            out.append((s, wanted))
    return out


def words(r, forms):
    while True:
        question, lines, result, key = g.word_problem(r, forms=forms)
        uses = any(f.split("{")[0].strip() and _uses(question, f) for f in g.HELD_OUT_FORMS)
        if (forms == "train" and held_out("words", *key)) or (forms == "held" and uses):
            return g.sample([g.user(g.BOXED + question)], ""), f"\\boxed{{{result}}}"


def _uses(question, form):
    import re

    pattern = re.sub(r"\\\{\w+\\\}", r"[\\w']+", re.escape(form))
    return re.search(pattern, question) is not None


def arith(r):
    while True:
        e, result, _ = g.arithmetic(r)
        if held_out("arith", e) and any(int(x) >= 10 for x in e.split() if x.isdigit()):
            return g.sample([g.user(f"What is {e}?")], ""), f"{e} = {result}"


def tools(r, syllables):
    question, declared, calls = g.tool_request(r, syllables)
    return g.sample([g.user(question)], "", tools=declared), "".join(g.call_text(n, a) for n, a in calls)


def tools_unseen(r):
    name, tool, question, arguments = g.made_up_tool(r, g.TEST_SYLLABLES)
    return g.sample([g.user(question)], "", tools=[tool]), g.call_text(name, arguments)


def facts(r):
    ways, answer = r.choice(g.FACTS)
    lead = r.choice(["", "", "Hi, ", "Please tell me: ", "Quick question: ", "I wonder, "])
    way = ways[-1]
    return g.sample([g.user(lead + (way[0].lower() + way[1:] if lead and not way.startswith(("NVFP4", "FP8", "MTP")) else way))], ""), answer


def longrecall(r):
    messages, question, answer = g.recall(r, 10)
    return g.sample(messages + [g.user(question)], ""), answer


def chat(r):
    question, answer = g.small_talk(r)
    return g.sample([g.user(question)], ""), answer


MAKERS = {"wordmath-numbers": lambda r: words(r, "train"), "wordmath-templates": lambda r: words(r, "held"), "arith": arith, "tools-seen": lambda r: tools(r, g.TRAIN_SYLLABLES),
          "tools-unseen": tools_unseen, "facts": facts, "longrecall": longrecall, "chat": chat}
SIZES = {"wordmath-numbers": 300, "wordmath-templates": 300, "arith": 300, "tools-seen": 200, "tools-unseen": 200, "facts": 60, "longrecall": 100, "chat": 50}


def is_right(name, got, wanted):
    if name.startswith("wordmath"):
        return wanted in got
    return got.strip() == wanted


def write_sets(folder):
    """The files that ship: question and answer as in GSM8K for word problems, messages and expected text otherwise."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in SIZES.items():
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as f:
            for s, wanted in held_out_samples(name, count):
                if name.startswith("wordmath"):
                    row = {"question": s["messages"][0]["content"].removeprefix(g.BOXED), "answer": f"#### {wanted[7:-1]}"}
                else:
                    row = {"messages": s["messages"], **({"tools": s["tools"]} if s["tools"] else {}), "expected": wanted}
                f.write(json.dumps(row) + "\n")


def greedy(model, renderer, samples, device, max_new=96, batch=256, temperature=0.0):
    """Replies by plain recomputation: no cache, so nothing of the runtime is trusted. Sampled when temperature > 0."""
    import torch

    stops = {106, 50, 1}
    texts = []
    for at in range(0, len(samples), batch):
        rows = [renderer.tokenizer.encode(renderer.prompt(s), add_special_tokens=False).ids for s, _ in samples[at : at + batch]]
        replies, alive = [[] for _ in rows], set(range(len(rows)))
        for _ in range(max_new):
            order = sorted(alive)
            length = max(len(rows[i]) + len(replies[i]) for i in order)
            ids = torch.zeros(len(order), length, dtype=torch.long)
            for k, i in enumerate(order):
                full = rows[i] + replies[i]
                ids[k, : len(full)] = torch.tensor(full)
            ends = torch.tensor([len(rows[i]) + len(replies[i]) - 1 for i in order], device=device)
            ids = ids.to(device)
            with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                hidden = model(ids, torch.arange(length, device=device).expand_as(ids), torch.zeros_like(ids))
                logits = model.logits(hidden[torch.arange(len(order), device=device), ends])
                best = (torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0] if temperature > 0 else logits.argmax(-1)).tolist()
            for k, i in enumerate(order):
                if best[k] in stops:
                    alive.discard(i)
                else:
                    replies[i].append(best[k])
            if not alive:
                break
        texts += [renderer.tokenizer.decode(ids, skip_special_tokens=False) for ids in replies]
    return texts


def accuracy(model, renderer, device, limit=200):
    table = {}
    for name, count in SIZES.items():
        samples = held_out_samples(name, min(limit, count))
        replies = greedy(model, renderer, samples, device)
        right = sum(is_right(name, got, wanted) for got, (_, wanted) in zip(replies, samples))
        table[name] = {"right": right, "of": len(samples)}
        wrong = [(s["messages"][-1]["content"][-80:], got[-80:], wanted) for got, (s, wanted) in zip(replies, samples) if not is_right(name, got, wanted)]
        print(f"{name:20} {right}/{len(samples)}", wrong[:1], flush=True)
    return table
