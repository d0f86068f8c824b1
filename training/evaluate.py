"""Held-out sets of the demo model, their files, and greedy accuracy: by the PyTorch twin, or by a running server.

    python3 -m training.evaluate --url http://127.0.0.1:30000 --out accuracy.json      asks a server
    python3 -m training.evaluate --write models/demo/eval                              writes the text sets
"""

import argparse
import base64
import json
import pathlib
import random

from training import audio, generators as g, images, problems, talk, tools
from training.facts import FACTS
from training.media import png, wav
from training.words import held_out


def held_out_samples(name, count):
    """[(sample, wanted)]: the same ones every time."""
    r = random.Random(f"eval {name}")
    out, seen = [], set()
    while len(out) < count:
        s, wanted = MAKERS[name](r)
        key = json.dumps([s["messages"], s["tools"]], default=str)
        if s["media"] or key not in seen:
            seen.add(key)
            out.append((s, wanted))
    return out


def words(r, forms):
    while True:
        question, _, result, uses_held_out = problems.word_problem(r, forms=forms)
        if (forms == "train" and held_out("words", question)) or (forms == "held" and uses_held_out):
            return g.sample([g.user(problems.BOXED + question)], ""), f"\\boxed{{{result}}}"


def arith(r):
    while True:
        e, result, _, _ = problems.arithmetic(r)
        if problems.arithmetic_is_held_out(e):
            return g.sample([g.user(f"What is {e}?")], ""), f"{e} = {result}"


def tools_seen(r):
    question, declared, calls = tools.tool_request(r)
    return g.sample([g.user(question)], "", tools=declared) | {"calls": calls}, "".join(tools.call_text(n, a) for n, a in calls)


def tools_unseen(r):
    name, tool, question, arguments = tools.made_up_tool(r, tools.test_word)
    return g.sample([g.user(question)], "", tools=[tool]) | {"calls": [(name, arguments)]}, tools.call_text(name, arguments)


def facts(r):
    ways, answer = r.choice(FACTS)
    return g.sample([g.user(talk.led(r, ways[-1]))], ""), answer


def longrecall(r):
    messages, question, answer = talk.recall(r, 10)
    return g.sample(messages + [g.user(question)], ""), answer


def pair(maker):
    def make(r):
        question, answer = maker(r)
        return g.sample([g.user(question)], ""), answer

    return make


def image(r, pairs):
    """One question about a scene; pairs: "train" scenes of known pairs of shape and colour, "held" with a pair that was never trained, asked for."""
    if pairs == "train" and r.random() < 0.15:
        picture, digit, colour = images.digit_scene(r)
        q, answer = images.digit_question(r, digit, colour)
    else:
        while True:  # a new scene each time: not every one allows a question about its pair
            picture, items = images.scene(r, pairs=pairs)
            q, answer = images.question(r, items)
            if pairs == "train" or any(kind in answer and colour in answer + q for kind, colour in images.HELD_OUT_PAIRS):
                break
    return g.sample([images.user(r, [picture], q)], "", media=[picture]), answer


def sounds(r):
    s = audio.make_audio_sample(r, held=r.random() < 0.6)
    return g.sample(s["messages"], "", media=s["media"]), s["reply"]


MAKERS = {"wordmath-numbers": lambda r: words(r, "train"), "wordmath-templates": lambda r: words(r, "held"), "arith": arith, "tools-seen": tools_seen, "tools-unseen": tools_unseen, "facts": facts,
          "unknown": pair(talk.open_question), "longrecall": longrecall, "chat": pair(talk.small_talk), "image": lambda r: image(r, "train"), "image-pairs": lambda r: image(r, "held"), "audio": sounds}
SIZES = {"wordmath-numbers": 300, "wordmath-templates": 300, "arith": 300, "tools-seen": 200, "tools-unseen": 200, "facts": 100, "unknown": 100, "longrecall": 100, "chat": 50, "image": 300, "image-pairs": 100, "audio": 200}


def is_right(name, got, wanted):
    if name.startswith("wordmath"):
        return wanted in got
    if name == "arith":
        return got.strip().split("\n")[-1] == wanted
    return got.strip() == wanted


# How `nibble eval --task` marks a set whose replies are not simply equal to the expected text: steps may stand before a result, and a server hands calls over as names and arguments.
SCORERS = {"arith": "number", "tools-seen": "tool_call", "tools-unseen": "tool_call"}


def write_sets(folder):
    """The files that ship: question and answer as in GSM8K for word problems, tasks of `nibble eval` otherwise. Pictures and sounds are made anew from their seeds."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in SIZES.items():
        if name.startswith(("image", "audio")):
            continue
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as f:
            if not name.startswith("wordmath"):
                f.write(json.dumps({"task": name, "scorer": SCORERS.get(name, "exact")}) + "\n")
            for s, wanted in held_out_samples(name, count):
                if name.startswith("wordmath"):
                    row = {"question": s["messages"][0]["content"].removeprefix(problems.BOXED), "answer": f"#### {wanted[7:-1]}"}
                else:
                    expected = wanted.split(" = ")[1] if name == "arith" else [{"name": n, "arguments": a} for n, a in s["calls"]] if "calls" in s else wanted
                    row = {"messages": s["messages"], **({"tools": s["tools"]} if s["tools"] else {}), "expected": expected}
                f.write(json.dumps(row) + "\n")


# ---- by the twin ----

def greedy(model, renderer, samples, device, max_new=96):
    """Texts of the greedy replies to [(sample, wanted)], without their stop tokens."""
    from training import decode

    ids = decode.replies(model, [decode.encoded_prompt(renderer, s) for s, _ in samples], device, max_new)
    return [renderer.tokenizer.decode([i for i in one if i not in decode.STOPS], skip_special_tokens=False) for one in ids]


def accuracy(reply_to, limit=200):
    """{set: {right, of}} and {set: [(sample, reply)]}; reply_to(samples) gives the texts."""
    table, said = {}, {}
    for name, count in SIZES.items():
        samples = held_out_samples(name, min(limit, count))
        replies = reply_to(samples)
        right = [is_right(name, got, wanted) for got, (_, wanted) in zip(replies, samples)]
        table[name] = {"right": sum(right), "of": len(samples)}
        if name == "audio":
            table[name]["keys"] = keys_right([(got, wanted) for got, (s, wanted) in zip(replies, samples)])
        said[name] = list(zip([s for s, _ in samples], replies))
        wrong = [(str(s["messages"][-1]["content"])[-80:], got[-80:], wanted) for got, (s, wanted), ok in zip(replies, samples, right) if not ok]
        print(f"{name:20} {sum(right)}/{len(samples)}", wrong[:3], flush=True)
    return table, said


def keys_right(pairs):
    """Of the dialled strings, the share of keys that stand where they should."""
    right = of = 0
    for got, wanted in pairs:
        keys = wanted.split(" ")
        if all(len(k) == 1 for k in keys):
            said = got.strip().split(" ")
            of += len(keys)
            right += sum(a == b for a, b in zip(said, keys))
    return {"right": right, "of": of}


# ---- by a server ----

def over_http(s):
    """The body of a chat completion."""
    media = iter(s["media"])
    parts = lambda content: content if isinstance(content, str) else [part(p, media) for p in content]
    body = {"messages": [{**m, "content": parts(m["content"])} for m in s["messages"]], "temperature": 0, "max_tokens": 160}
    if any(m["kind"] == "image" for m in s["media"]):
        body["image_soft_tokens"] = next(m["budget"] for m in s["media"] if m["kind"] == "image")
    return {**body, "tools": s["tools"]} if s["tools"] else body


def part(p, media):
    if p["type"] == "text":
        return p
    m = next(media)
    if m["kind"] == "image":
        return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(m["rgb"])).decode()}}
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(m["samples"])).decode(), "format": "wav"}}


def ask(url, s):
    import urllib.request

    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(over_http(s)).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        message = json.load(reply)["choices"][0]["message"]
    return (message.get("content") or "") + "".join(called(c["function"]) for c in message.get("tool_calls") or [])


def called(function):
    """A call as the model writes it; one that was cut off within its arguments stays what the server sent."""
    try:
        return tools.call_text(function["name"], json.loads(function["arguments"]))
    except json.JSONDecodeError:
        return function["arguments"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--only", help="sets, by commas")
    parser.add_argument("--write", type=pathlib.Path)
    args = parser.parse_args()
    if args.write:
        write_sets(args.write)
    if args.url:
        import concurrent.futures

        if args.only:
            for name in set(SIZES) - set(args.only.split(",")):
                del SIZES[name]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            table, _ = accuracy(lambda samples: list(pool.map(lambda s: ask(args.url, s[0]), samples)), args.limit)
        if args.out:
            args.out.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
