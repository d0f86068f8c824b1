"""Makes models/demo/assistant: the MTP assistant that drafts for the demo model. One command, after training.make_demo:

    python3 -m training.make_assistant --target models/demo --out models/demo/assistant             on a GPU
    python3 -m training.make_assistant --target models/demo --out /tmp/assistant --smoke            30 steps on a CPU, to see that all of it runs
"""

import argparse
import itertools
import json
import pathlib
import random
import time

STEPS_AHEAD = 5
DECAY = 0.8  # of the loss from one step ahead to the next


def own_replies(target, renderer, device, count, batch):
    """Training prompts answered by the target itself at temperature 1: what it will be asked to draft for."""
    from training import evaluate, generators

    samples = list(itertools.islice(generators.stream(seed=77), count))
    texts = evaluate.greedy(target, renderer, [(s, None) for s in samples], device, max_new=160, batch=batch, temperature=1.0)
    return [{**s, "reply": text + ("<turn|>" if s["reply"].endswith("<turn|>") else "")} for s, text in zip(samples, texts)]


def packed_own(samples, renderer, length, seed):
    """As make_demo.packed_rows, over the given samples again and again."""
    import numpy as np

    r = random.Random(seed)
    encoded = [e for e in (renderer.encode(s) for s in samples) if len(e[0]) <= length]
    row, number = [], 0
    while True:
        ids, weights = r.choice(encoded)
        if len(row) + len(ids) > length:
            row += [(0, 0, -1, 0.0)] * (length - len(row))
            columns = list(zip(*row))
            yield np.array(columns[0], np.int64), np.array(columns[1], np.int64), np.array(columns[2], np.int64), np.array(columns[3], np.float32)
            row, number = [], 0
        row += [(i, p, number, w) for p, (i, w) in enumerate(zip(ids, weights[1:] + [0.0]))]
        number += 1


def batches(args, target_folder, own, renderer):
    """A third of the rows are the target's own words."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset

    from training.make_demo import packed_rows

    class Rows(IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            return packed_rows(5000 + (info.id if info else 0), target_folder, args.row)

    theirs = max(1, args.batch // 3) if own else 0
    loader = iter(DataLoader(Rows(), batch_size=args.batch - theirs, num_workers=args.workers, prefetch_factor=4 if args.workers else None))
    mine = packed_own(own, renderer, args.row, 9) if theirs else None
    while True:
        parts = list(next(loader))
        if theirs:
            rows = [next(mine) for _ in range(theirs)]
            parts = [torch.cat([p, torch.stack([torch.from_numpy(r[c]) for r in rows])]) for c, p in enumerate(parts)]
        yield parts


def train(assistant, target, stream, args, device, log):
    import torch

    from training.assistant import shifted, target_context, unroll

    optimizer = torch.optim.AdamW(assistant.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)
    began = time.time()
    for step in range(args.steps):
        lr = args.lr * min(1.0, (step + 1) / 30) * max(0.02, 1 - step / args.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        ids, positions, samples, weights = (t.to(device, non_blocking=True) for t in next(stream))
        reply = weights == 1
        losses = []
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            hidden, context = target_context(target, ids, positions, samples)
            for j, state in unroll(assistant, target, ids, hidden, context, STEPS_AHEAD):
                # Rounds whose newest token and whose guessed token are both in a reply, of one sample.
                same = shifted(samples + 1, j) == samples + 1
                where = (reply & shifted(reply.long(), j).bool() & same).nonzero(as_tuple=True)
                with torch.no_grad():
                    wanted = target.logits(hidden[where[0], where[1] + j]).softmax(-1)
                losses.append(torch.nn.functional.cross_entropy(assistant.logits(state[where]), wanted))
            loss = sum(DECAY ** j * l for j, l in enumerate(losses))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(assistant.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step + 1 == args.steps or args.smoke:
            log.append({"step": step + 1, "seconds": round(time.time() - began, 1), "loss": round(float(loss), 4), "loss_by_step": [round(float(l), 4) for l in losses]})
            print(f"step {step + 1}/{args.steps} loss {float(loss):.4f}", [f"{float(l):.3f}" for l in losses], f"{time.time() - began:.0f} s", flush=True)
    with torch.no_grad():  # what ships is BF16: judge that
        for p in assistant.parameters():
            p.copy_(p.to(torch.bfloat16).float())


def acceptance(assistant, target, renderer, device, limit):
    """Greedy rounds on held-out prompts. With the target's own greedy reply given, a round accepts the leading guesses that are its tokens."""
    import torch

    from training import evaluate
    from training.assistant import target_context, unroll

    table, all_counts = {}, [0] * (STEPS_AHEAD + 1)
    for name in evaluate.MAKERS:
        samples = evaluate.held_out_samples(name, min(limit, evaluate.SIZES[name]))
        counts = [0] * (STEPS_AHEAD + 1)
        for (s, _), text in zip(samples, evaluate.greedy(target, renderer, samples, device)):
            prompt = renderer.tokenizer.encode(renderer.prompt(s), add_special_tokens=False).ids
            whole = prompt + renderer.tokenizer.encode(text, add_special_tokens=False).ids + [106]
            ids = torch.tensor([whole], device=device)
            positions = torch.arange(len(whole), device=device)[None]
            with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                hidden, context = target_context(target, ids, positions, torch.zeros_like(ids))
                guesses = [assistant.logits(state)[0].argmax(-1).tolist() for _, state in unroll(assistant, target, ids, hidden, context, STEPS_AHEAD)]
            last = len(prompt) - 1  # committed; the reply's first token is the bonus
            while last + 2 < len(whole):
                accepted = 0
                while accepted < STEPS_AHEAD and last + accepted + 2 < len(whole) and guesses[accepted][last] == whole[last + accepted + 2]:
                    accepted += 1
                counts[accepted] += 1
                last += accepted + 1
        rounds = max(1, sum(counts))
        table[name] = round(1 + sum(n * c for n, c in enumerate(counts)) / rounds, 3)
        all_counts = [a + c for a, c in zip(all_counts, counts)]
    rounds = max(1, sum(all_counts))
    return {"accept_length": round(1 + sum(n * c for n, c in enumerate(all_counts)) / rounds, 3), "by_set": table, "histogram": all_counts,
            "by_position": [round(sum(all_counts[j:]) / rounds, 3) for j in range(1, STEPS_AHEAD + 1)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--row", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--own", type=int, default=4000, help="samples answered by the target itself")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--limit", type=int, default=100, help="held-out prompts of each set for the acceptance")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.batch, args.row, args.workers, args.own, args.limit = min(args.steps, 30), 3, 384, 0, 6, 2

    import torch
    from tokenizers import Tokenizer

    from training import render
    from training.assistant import Assistant, assistant_config
    from training.model import Model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    target = Model.load(args.target).to(device).requires_grad_(False).eval()
    renderer = render.Renderer(args.target / "chat_template.jinja", Tokenizer.from_file(str(args.target / "tokenizer.json")))
    config = assistant_config(json.loads((args.target / "config.json").read_text()))
    (args.out / "config.json").write_text(json.dumps(config, indent=1))
    assistant = Assistant(config)
    assistant.initialize()
    assistant.to(device)
    print(f"{sum(p.numel() for p in assistant.parameters()) / 1e6:.2f} M parameters, {device}", flush=True)
    began, log = time.time(), []
    own = own_replies(target, renderer, device, args.own, batch=512 if device == "cuda" else 8)
    print(f"{len(own)} replies of the target in {time.time() - began:.0f} s", flush=True)
    train(assistant, target, batches(args, args.target, own, renderer), args, device, log)
    assistant.save(args.out / "model.safetensors")
    result = acceptance(assistant, target, renderer, device, args.limit)
    print(json.dumps(result), flush=True)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    (args.out / "training.json").write_text(json.dumps({"device": name, "seconds": round(time.time() - began), "acceptance_greedy_k5": result, "log": log}, indent=1))


if __name__ == "__main__":
    main()
