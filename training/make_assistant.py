"""Makes models/demo/assistant: the MTP assistant that drafts for the demo model. training.make_demo makes both; alone, for a target that is there:

    python3 -m training.make_assistant --target models/demo --out models/demo/assistant --minutes 2       on a GPU
    python3 -m training.make_assistant --target models/demo --out /tmp/assistant --smoke                  a few steps on a CPU, to see that all of it runs
"""

import argparse
import itertools
import json
import pathlib
import random
import time

STEPS_AHEAD = 5
DECAY = 0.8  # of the loss from one step ahead to the next


def prompts_of(renderer_of, seed, workers, at_most=256):
    """Lists of encoded training prompts, endless, from worker processes."""
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    from training import decode, generators

    class Prompts(IterableDataset):
        def __iter__(self):
            info, renderer = get_worker_info(), renderer_of()
            source = generators.stream(seed + (info.id if info else 0))
            while True:
                some = [decode.encoded_prompt(renderer, s) for s in itertools.islice(source, 32)]
                yield [p for p in some if len(p[0]) <= at_most]  # the longest decides what a batch costs

    return iter(DataLoader(Prompts(), batch_size=None, num_workers=workers, collate_fn=list))


def own_replies(target, renderer, renderer_of, device, count, workers, ends_at):
    """Training prompts answered by the target itself, half of them greedily, half at temperature 1: what the assistant will draft for. Encoded samples, as packing.rows takes them."""
    from training import decode

    prompts, source = [], prompts_of(renderer_of, 7700, workers)
    while len(prompts) < count:
        prompts += next(source)
    del source
    image_id, audio_id = (renderer.tokenizer.token_to_id(t) for t in ("<|image|>", "<|audio|>"))
    out, half, longest = [], count // 2, 128 if device == "cuda" else 8
    for some, temperature in ((prompts[:half], 0.0), (prompts[half:count], 1.0)):
        for (ids, _, soft), reply in zip(some, decode.replies(target, some, device, longest, temperature, ends_at)):
            if reply:
                out.append((ids + reply, [0.0] * len(ids) + [1.0] * len(reply), [s[:3] for s in soft], image_id, audio_id))
    return out


def again_and_again(samples, seed):
    r = random.Random(seed)
    while True:
        yield r.choice(samples)


def joined(streams):
    """Batches of several streams, their rows put together."""
    import torch

    for parts in zip(*streams):
        length, rows = parts[0]["ids"].shape[1], itertools.accumulate((len(p["ids"]) for p in parts[:-1]), initial=0)
        shifted = [{k: v + at * length if k.endswith("_at") else v for k, v in p.items()} for p, at in zip(parts, rows)]
        yield {k: torch.cat([p[k] for p in shifted]) for k in parts[0]}


def rounds(b):
    """For each step ahead the places (row, position) of the rounds that count: newest and guessed token both in a reply of one sample. Found before the batch goes to the device,
    which would have to be waited for."""
    from training.assistant import shifted

    reply, samples = b["weights"] == 1, b["samples"].long()
    return [(reply & shifted(reply.long(), j).bool() & (shifted(samples + 1, j) == samples + 1)).nonzero(as_tuple=True) for j in range(1, STEPS_AHEAD + 1)]


def loss_of(assistant, target, b, places, device):
    """The losses of the steps ahead: cross-entropy with the target's own distribution."""
    import torch

    from training.assistant import target_context, unroll

    losses = []
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        hidden, context = target_context(target, b["ids"], b["positions"], b["samples"], b["blocks"], b)
        if assistant.masks:
            masks = assistant.masks(b["samples"], b["blocks"])
            context = {kind: (*c[:4], masks[kind]) for kind, c in context.items()}
        for (j, state), (row, at) in zip(unroll(assistant, target, b["ids"], hidden, context, STEPS_AHEAD), places):
            with torch.no_grad():
                wanted = target.logits(hidden[row, at + j]).softmax(-1)
            losses.append(torch.nn.functional.cross_entropy(assistant.logits(state[row, at]), wanted))
    return losses


def compile_assistant(assistant, target, b, device):
    """Its layers, for batches of b's shape, checked as the target's are."""
    import torch

    from training.assistant import shifted, target_context
    from training.attention import BlockMasks
    from training.compiled import compared, compile_layers

    masks = BlockMasks(*b["ids"].shape, assistant.config["sliding_window"], device)

    def check():
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
            hidden, context = target_context(target, b["ids"], b["positions"], b["samples"], b["blocks"], b)
            x = assistant.pre_projection(torch.cat([target.embed_tokens(shifted(b["ids"], 1)) * target.scale, hidden], -1))
            block = masks(b["samples"], b["blocks"])
        return compared([(layer, context[layer.kind], layer, (*context[layer.kind][:4], block[layer.kind])) for layer in assistant.layers], x, b["samples"] >= 0)

    if device == "cuda" and compile_layers(assistant.layers, check):
        assistant.masks = masks


def train(assistant, target, stream, device, log, ends_at, steps=0, peak=2e-3, checkpoint=None):
    """Until the clock says ends_at, or for so many steps. checkpoint() is called at half time."""
    import torch

    from training.train import move

    held = next(stream)
    compile_assistant(assistant, target, move(held, device), device)
    optimizer = torch.optim.AdamW(assistant.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.0, **({"fused": True} if device == "cuda" else {}))
    began, step, waited = time.time(), 0, 0.0
    while True:
        progress = step / steps if steps else (time.time() - began) / max(1e-9, ends_at - began)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 50) * max(0.02, 1 - progress)
        if step:
            asked = time.time()
            held = next(stream)
            waited += time.time() - asked
        places = [tuple(i.to(device, non_blocking=True) for i in p) for p in rounds(held)]
        losses = loss_of(assistant, target, move(held, device), places, device)
        loss = sum(DECAY**j * l for j, l in enumerate(losses))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(assistant.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step in (1, 50) or step % 100 == 0 or (steps and steps < 50):
            values = [round(l.item(), 4) for l in losses]
            log.append({"step": step, "seconds": round(time.time() - began, 1), "loss": round(loss.item(), 4), "loss_by_step": values})
            print(f"assistant step {step} loss {loss.item():.4f} {values}, waited {waited:.1f} s for data, {time.time() - began:.0f} s, {100 * progress:.0f} %", flush=True)
        elif step % 10 == 0 and device == "cuda":
            torch.cuda.synchronize()  # the clock must not run ahead of the work
        if checkpoint and progress > 0.5:
            checkpoint()
            checkpoint = None
    assistant.masks = None
    with torch.no_grad():  # what ships is BF16: judge that
        for p in assistant.parameters():
            p.copy_(p.to(torch.bfloat16).float())


def make(target, target_config, out, renderer, renderer_of, device, ends_at, smoke=False, steps=0, rows=24, length=1024, workers=14, own=12288, checkpoint=None):
    """Trains and writes an assistant; half of the rows are the target's own words. checkpoint() is called when a half-trained one has been written."""
    from training import generators, packing, train as training
    from training.assistant import Assistant, assistant_config

    if smoke:
        steps, rows, length, workers, own = steps or 3, 2, 384, 0, 8
    out.mkdir(parents=True, exist_ok=True)
    began, pin = time.time(), device == "cuda"
    replies = own_replies(target, renderer, renderer_of, device, own, workers, began + 0.25 * (ends_at - began))
    print(f"{len(replies)} replies of the target in {time.time() - began:.0f} s", flush=True)
    stream = training.loader(lambda worker: packing.encoded_stream(generators.stream(5000 + worker), renderer_of()), length, rows - rows // 2, max(0, workers - 2), pin)
    mine = training.loader(lambda worker: again_and_again(replies, 9 + worker), length, rows // 2, min(2, workers), pin)
    config = assistant_config(target_config)
    assistant = Assistant(config)
    assistant.initialize(target)
    assistant.to(device)
    log = []

    def save():
        (out / "config.json").write_text(json.dumps(config, indent=1))
        assistant.save(out / "model.safetensors")
        (out / "training.json").write_text(json.dumps({"seconds": round(time.time() - began), "parameters": sum(p.numel() for p in assistant.parameters()), "log": log}, indent=1))
        if checkpoint:
            checkpoint()

    train(assistant, target, joined([stream, mine]), device, log, ends_at, steps, checkpoint=save)
    save()
    return assistant, config


def acceptance(assistant, target, renderer, device, said, limit, goes_on=lambda: True):
    """Greedy rounds on held-out prompts. said: {set: [(sample, the target's greedy reply)]}; a round accepts the leading guesses that are the reply's tokens."""
    import torch

    from training import evaluate, packing
    from training.assistant import target_context, unroll

    image_id, audio_id = (renderer.tokenizer.token_to_id(t) for t in ("<|image|>", "<|audio|>"))
    by_set = {}
    for number in range(limit):  # one of each set in turn, so that all have been asked when the time is over
        for name, replies in said.items():
            if number >= len(replies) or not goes_on():
                continue
            s, text = replies[number]
            counts = by_set.setdefault(name, [0] * (STEPS_AHEAD + 1))
            prompt, soft = renderer.prompt_ids(s)
            whole = prompt + renderer.tokenizer.encode(text, add_special_tokens=False).ids + [106]
            row = packing.Row(len(whole))
            row.add(whole, [0.0] * len(whole), soft, image_id, audio_id)
            ids, blocks = torch.tensor([whole], device=device), torch.from_numpy(row.arrays["blocks"])[None].to(device)
            inputs = {k: torch.from_numpy(v).to(device) for k, v in packing.soft_batch([row.soft], len(whole)).items()} if row.soft else None
            positions = torch.arange(len(whole), device=device)[None]
            with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                hidden, context = target_context(target, ids, positions, torch.zeros_like(ids), blocks, inputs)
                guesses = torch.stack([assistant.logits(state)[0].argmax(-1) for _, state in unroll(assistant, target, ids, hidden, context, STEPS_AHEAD)]).tolist()
            last = len(prompt) - 1  # committed; the reply's first token is the bonus
            while last + 2 < len(whole):
                accepted = 0
                while accepted < STEPS_AHEAD and last + accepted + 2 < len(whole) and guesses[accepted][last] == whole[last + accepted + 2]:
                    accepted += 1
                counts[accepted] += 1
                last += accepted + 1
    length = lambda counts: round(1 + sum(n * c for n, c in enumerate(counts)) / max(1, sum(counts)), 3)
    all_counts = [sum(column) for column in zip(*by_set.values())] or [0] * (STEPS_AHEAD + 1)
    rounds = max(1, sum(all_counts))
    return {"accept_length": length(all_counts), "by_set": {name: length(counts) for name, counts in by_set.items() if sum(counts)}, "histogram": all_counts,
            "by_position": [round(sum(all_counts[j:]) / rounds, 3) for j in range(1, STEPS_AHEAD + 1)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--limit", type=int, default=40, help="held-out prompts of each set for the acceptance")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()

    import torch
    from tokenizers import Tokenizer

    from training import evaluate, render
    from training.model import Model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(1)
    target = Model.load(args.target).to(device).requires_grad_(False).eval()
    renderer_of = lambda: render.Renderer(args.target / "chat_template.jinja", Tokenizer.from_file(str(args.target / "tokenizer.json")))
    renderer = renderer_of()
    assistant, _ = make(target, json.loads((args.target / "config.json").read_text()), args.out, renderer, renderer_of, device, time.time() + 60 * args.minutes, args.smoke, args.steps)
    limit, longest = (2, 4) if args.smoke else (args.limit, 160)
    said = {name: [(s, text) for (s, _), text in zip(samples, evaluate.greedy(target, renderer, samples, device, max_new=longest))]
            for name in (list(evaluate.SIZES)[:1] if args.smoke else evaluate.SIZES) for samples in [evaluate.held_out_samples(name, limit)]}
    result = acceptance(assistant, target, renderer, device, said, limit)
    print(json.dumps(result), flush=True)
    written = json.loads((args.out / "training.json").read_text())
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    (args.out / "training.json").write_text(json.dumps({"device": name, "acceptance_greedy_k5": result, **written}, indent=1))


if __name__ == "__main__":
    main()
