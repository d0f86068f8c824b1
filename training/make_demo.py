"""Makes models/demo: tokenizer, training, held-out accuracy, checkpoint. One command:

    python3 -m training.make_demo --out models/demo --minutes 6        on a GPU
    python3 -m training.make_demo --out /tmp/demo --smoke              30 steps on a CPU, to see that all of it runs
"""

import argparse
import itertools
import json
import math
import pathlib
import random
import time

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent
REFERENCE_TOKENIZER = REPO / "tests/data/tokenizer/small1k-tokenizer.json"  # of our own making, in Gemma's layout: where ids 0..493 and the file's other fields come from


def make_tokenizer(out, template, samples=60000):
    from training import generators, render, tokenizer

    jinja = render.load_template(template)
    texts = []
    for s in itertools.islice(generators.stream(seed=7), samples):
        texts.append(jinja.render(messages=s["messages"], tools=s["tools"], documents=None, add_generation_prompt=True, bos_token="") + s["reply"])
    built = tokenizer.build(texts, json.loads(REFERENCE_TOKENIZER.read_text()))
    (out / "tokenizer.json").write_text(json.dumps(built, ensure_ascii=False, separators=(",", ":")))
    return built


def packed_rows(seed, folder, length):
    """Endless rows of (ids, positions, samples, weights), each `length` long, filled greedily."""
    import numpy as np
    from tokenizers import Tokenizer

    from training import generators, render

    renderer = render.Renderer(folder / "chat_template.jinja", Tokenizer.from_file(str(folder / "tokenizer.json")))
    row, number = [], 0
    for s in generators.stream(seed):
        ids, weights = renderer.encode(s)
        if len(ids) > length:
            continue
        if len(row) + len(ids) > length:
            row += [(0, 0, -1, 0.0)] * (length - len(row))
            columns = list(zip(*row))
            yield np.array(columns[0], np.int64), np.array(columns[1], np.int64), np.array(columns[2], np.int64), np.array(columns[3], np.float32)
            row, number = [], 0
        # The weight belongs to the prediction of the next token, so it is stored one place earlier.
        row += [(i, p, number, w) for p, (i, w) in enumerate(zip(ids, weights[1:] + [0.0]))]
        number += 1


def train(model, folder, args, device, log):
    import torch
    from torch.utils.data import DataLoader, IterableDataset

    class Rows(IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            return packed_rows(1000 + (info.id if info else 0), folder, args.row)

    loader = iter(DataLoader(Rows(), batch_size=args.batch, num_workers=args.workers, prefetch_factor=4 if args.workers else None))
    decay = [p for p in model.parameters() if p.dim() == 2 and p is not model.embed_tokens.weight]
    others = [p for p in model.parameters() if p.dim() != 2 or p is model.embed_tokens.weight]
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.95), eps=1e-8, **fused)
    torch._dynamo.config.suppress_errors = True  # without a compiler on the machine: slower, not broken
    forward = torch.compile(model) if device == "cuda" and not args.smoke else model
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    averaging = False
    began, tokens, step, first_step_done = time.time(), 0, 0, None
    while True:
        elapsed = time.time() - (first_step_done or time.time())
        progress = step / args.steps if args.steps else elapsed / (args.minutes * 60)
        if progress >= 1:
            break
        # Warm-up by steps, constant to 60 %, then linear to 2 %.
        lr = args.lr * min(1.0, (step + 1) / 100) * (1.0 if progress < 0.6 else max(0.02, 1 - 0.98 * (progress - 0.6) / 0.4))
        for group in optimizer.param_groups:
            group["lr"] = lr
        ids, positions, samples, weights = (t.to(device, non_blocking=True) for t in next(loader))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            hidden = forward(ids, positions, samples)
            where = (weights[:, :-1] > 0).nonzero(as_tuple=True)
            logits = model.logits(hidden[:, :-1][where])
        w = weights[:, :-1][where]
        losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][where], reduction="none")
        loss = (losses * w).sum() / w.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if first_step_done is None:
            first_step_done = time.time()  # compilation does not count against the budget
        if progress > 0.8:
            with torch.no_grad():
                keep = 0.998 if averaging else 0.0
                for n, p in model.named_parameters():
                    average[n].mul_(keep).add_(p, alpha=1 - keep)
            averaging = True
        step += 1
        tokens += ids.numel()
        if step in (1, 10, 50) or step % 200 == 0 or args.smoke:
            supervised = float((losses.detach() * (w == 1)).sum() / (w == 1).sum())
            rate = tokens / max(1e-9, time.time() - began)
            log.append({"step": step, "seconds": round(time.time() - began, 1), "loss": round(supervised, 4), "lr": lr, "tokens": tokens})
            print(f"step {step} loss {supervised:.4f} lr {lr:.2e} {tokens / 1e6:.1f} M tokens, {rate / 1e3:.0f} k tokens/s, {100 * progress:.0f} %", flush=True)
    if averaging:
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(average[n])
    # What ships is BF16: judge that.
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16).float())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--row", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--template", type=pathlib.Path, default=REPO / "models/demo/chat_template.jinja")
    parser.add_argument("--keep-tokenizer", action="store_true", help="use the tokenizer.json in --out")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.batch, args.row, args.workers = args.steps or 30, 2, 512, 0

    import torch
    from tokenizers import Tokenizer

    from training import config, evaluate, render
    from training.model import Model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    template = args.template.read_text()
    (args.out / "chat_template.jinja").write_text(template)
    if not args.keep_tokenizer:
        make_tokenizer(args.out, args.out / "chat_template.jinja", samples=3000 if args.smoke else 60000)
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    ids = {t["content"]: t["id"] for t in json.loads((args.out / "tokenizer.json").read_text())["added_tokens"]}
    shape = config.model_config(tokenizer.get_vocab_size(), ids)
    (args.out / "config.json").write_text(json.dumps(shape, indent=1))
    (args.out / "generation_config.json").write_text(json.dumps({**config.GENERATION_CONFIG, "suppress_tokens": [ids["<audio|>"], ids["<image|>"]]}, indent=1))
    (args.out / "tokenizer_config.json").write_text(json.dumps(config.TOKENIZER_CONFIG, indent=1))
    model = Model(shape)
    model.initialize()
    model.to(device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, vocabulary {tokenizer.get_vocab_size()}, {device}", flush=True)
    log = []
    began = time.time()
    train(model, args.out, args, device, log)
    model.save(args.out / "model.safetensors")
    print(f"trained in {time.time() - began:.0f} s", flush=True)
    renderer = render.Renderer(args.out / "chat_template.jinja", tokenizer)
    table = evaluate.accuracy(model, renderer, device, limit=4 if args.smoke else 200)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    (args.out / "training.json").write_text(json.dumps({"device": name, "seconds": round(time.time() - began), "accuracy_greedy_bf16": table, "log": log}, indent=1))


if __name__ == "__main__":
    main()
