"""Makes models/demo and its assistant: data, training, checkpoints, held-out accuracy. One command:

    python3 -m training.make_demo --out models/demo --minutes 9.5                 on a GPU: all of it within that time
    python3 -m training.make_demo --out models/demo --start FOLDER --minutes 9.3  goes on from the model of an earlier run, with its tokenizer
    python3 -m training.make_demo --out /tmp/demo --smoke                         a few steps on a CPU, to see that all of it runs

--pack DIR writes the result, whenever a stage has ended, as demo.tar in parts of 15 MB: `cat DIR/demo.tar.* | tar x -C models/demo`.
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time

BEGAN = time.time()
HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent
REFERENCE_TOKENIZER = REPO / "tests/data/tokenizer/small1k-tokenizer.json"  # of our own making, in Gemma's layout: where ids 0..493 and the file's other fields come from
PART_BYTES = 15 << 20


def some_texts(template, seed, samples):
    """Conversations as the model will read them, and what is said about pictures and sounds, without drawing them."""
    import random

    from training import generators, images, render

    jinja, r, texts = render.load_template(template), random.Random(seed), []
    makers = [(g, w) for g, w in generators.GENERATORS if g not in (generators.make_image, generators.make_audio)]
    for _ in range(samples):
        s = r.choices([g for g, _ in makers], [w for _, w in makers])[0](r)
        texts.append(jinja.render(messages=s["messages"], tools=s["tools"], documents=None, add_generation_prompt=True, bos_token="") + s["reply"])
    for _ in range(samples // 10):
        items = [dict(kind=r.choice(list(images.KINDS)), colour=r.choice(list(images.COLOURS)), cx=r.random(), cy=i * 9.0, radius=1.0) for i in range(r.randint(1, 5))]
        texts.append(" ".join(images.question(r, items)))
    return texts


def make_tokenizer(out, template, samples, processes):
    """Learnt from texts that do not depend on the number of processes."""
    import multiprocessing

    from training import tokenizer

    with multiprocessing.Pool(processes) as pool:
        parts = pool.starmap(some_texts, [(template, seed, 1000) for seed in range(samples // 1000)], chunksize=1)
    built = tokenizer.build([text for part in parts for text in part], json.loads(REFERENCE_TOKENIZER.read_text()))
    (out / "tokenizer.json").write_text(json.dumps(built, ensure_ascii=False, separators=(",", ":")))


def write_configs(out, template):
    """The folder's small files; returns config.json's content."""
    from tokenizers import Tokenizer

    from training import config

    if (out / "chat_template.jinja").resolve() != template.resolve():
        shutil.copyfile(template, out / "chat_template.jinja")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    ids = {t["content"]: t["id"] for t in json.loads((out / "tokenizer.json").read_text())["added_tokens"]}
    shape = config.model_config(tokenizer.get_vocab_size(), ids)
    for name, content in (("config.json", shape), ("tokenizer_config.json", config.TOKENIZER_CONFIG), ("processor_config.json", config.PROCESSOR_CONFIG),
                          ("generation_config.json", {**config.GENERATION_CONFIG, "suppress_tokens": [ids["<audio|>"], ids["<image|>"]]})):
        (out / name).write_text(json.dumps(content, indent=1))
    return shape


def pack(out, folder):
    """The model's folder as a tar file in parts, each written beside its place and renamed."""
    if not folder:
        return
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for path in sorted(out.rglob("*")):
            if path.is_file() and "eval" not in path.parts:
                tar.add(path, str(path.relative_to(out)))
    whole = held.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(0, max(1, len(whole)), PART_BYTES):
        part = folder / f"demo.tar.{i // PART_BYTES:02}"
        beside = out.parent / f"{part.name}.part"
        beside.write_bytes(whole[i : i + PART_BYTES])
        shutil.move(beside, part)
    print(f"packed {len(whole) / 1e6:.1f} MB at {time.time() - BEGAN:.0f} s", flush=True)


def roomy_shared_memory():
    """Batches travel from the workers through /dev/shm; some machines give it 64 MB."""
    try:
        space = os.statvfs("/dev/shm")
        if space.f_bsize * space.f_bavail < 8 << 30 and os.geteuid() == 0:
            os.system("mount -o remount,size=32G /dev/shm")
        space = os.statvfs("/dev/shm")
        return space.f_bsize * space.f_bavail
    except OSError:
        return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.5, help="of wall time, for everything")
    parser.add_argument("--batch", type=int, default=32, help="rows")
    parser.add_argument("--row", type=int, default=2048, help="tokens of a row, a multiple of 128")
    parser.add_argument("--lr", type=float, help="the highest learning rate: 2e-3, with --start 1.5e-3")
    parser.add_argument("--workers", type=int, default=max(1, min(15, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--template", type=pathlib.Path, default=REPO / "models/demo/chat_template.jinja")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a tokenizer.json to take instead of learning one")
    parser.add_argument("--tokenizer-only", action="store_true")
    parser.add_argument("--start", type=pathlib.Path, help="a folder whose weights to go on from (and whose tokenizer to take)")
    parser.add_argument("--fresh-pictures", action="store_true", help="with --start: the embedder of pictures begins anew")
    parser.add_argument("--pack", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=100, help="held-out questions of each set")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = args.start / "tokenizer.json" if args.start else args.tokenizer
    if chosen and chosen.resolve() != (args.out / "tokenizer.json").resolve():
        shutil.copyfile(chosen, args.out / "tokenizer.json")
    if args.tokenizer_only:
        if not chosen:
            make_tokenizer(args.out, args.template, 2000 if args.smoke else 60000, args.workers)
        write_configs(args.out, args.template)
        return
    # The tokenizer is learnt by a process of its own while torch is read and the device wakes up.
    learning = None if chosen else subprocess.Popen([sys.executable, "-m", "training.make_demo", *sys.argv[1:], "--tokenizer-only"])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    import torch
    from tokenizers import Tokenizer

    from training import evaluate, generators, make_assistant, packing, render, train
    from training.model import Model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    steps = 0
    if args.smoke:
        steps, args.batch, args.row, args.workers, args.limit = 3, 2, 512, 1, 2
        torch.set_num_threads(1)
    if device == "cuda":
        torch.zeros(1, device=device)
    print(f"torch {torch.__version__} at {time.time() - BEGAN:.0f} s, shared memory {roomy_shared_memory() / 1e9:.1f} GB, {args.workers} workers", flush=True)
    if learning and learning.wait():
        raise SystemExit("the tokenizer was not learnt")
    shape = write_configs(args.out, args.template)
    print(f"vocabulary {shape['text_config']['vocab_size']}, {time.time() - BEGAN:.0f} s", flush=True)
    at = lambda share: BEGAN + share * args.minutes * 60
    renderer_of = lambda: render.Renderer(args.out / "chat_template.jinja", Tokenizer.from_file(str(args.out / "tokenizer.json")))
    renderer = renderer_of()
    seed = 100000 if args.start else 1000
    stream = train.loader(lambda worker: packing.encoded_stream(generators.stream(seed + worker), renderer_of()), args.row, args.batch, args.workers, device == "cuda")
    model = Model(shape)
    model.initialize()
    if args.start:
        model = Model.load(args.start)
        if args.fresh_pictures:
            model.media.initialize_pictures()
    model.to(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {name}, {time.time() - BEGAN:.0f} s", flush=True)
    report = {"device": name, "log": []}
    if args.start:  # what has been learnt already, the latest run first
        earlier = json.loads((args.start / "training.json").read_text())
        report["before"] = [{"device": earlier["device"], **earlier["log"][-1]}, *earlier.get("before", [])]

    def save(progress=1.0):
        model.save(args.out / "model.safetensors")
        (args.out / "training.json").write_text(json.dumps({**report, "seconds": round(time.time() - BEGAN)}, indent=1))
        pack(args.out, args.pack)

    train.train(model, stream, device, report["log"], at(0.70), steps, args.lr or (1.5e-3 if args.start else 2e-3), save)
    del stream
    save()
    print(f"target trained at {time.time() - BEGAN:.0f} s", flush=True)
    model.requires_grad_(False).eval()

    assistant, _ = make_assistant.make(model, shape, args.out / "assistant", renderer, renderer_of, device, ends_at=at(0.93), smoke=args.smoke, checkpoint=lambda: pack(args.out, args.pack))
    print(f"assistant trained at {time.time() - BEGAN:.0f} s", flush=True)

    if args.smoke:
        for s in list(evaluate.SIZES)[1:-2]:
            del evaluate.SIZES[s]
    asked = [s for name, count in evaluate.SIZES.items() for s in evaluate.held_out_samples(name, min(args.limit, count))]
    texts = iter(evaluate.greedy(model, renderer, asked, device, max_new=2 if args.smoke else 160))  # all sets in few batches
    report["accuracy_greedy_bf16"], said = evaluate.accuracy(lambda samples: list(itertools.islice(texts, len(samples))), args.limit)
    save()
    report["acceptance_greedy_k5"] = make_assistant.acceptance(assistant, model, renderer, device, said, 40, lambda: time.time() < at(0.985))
    print(json.dumps(report["acceptance_greedy_k5"]), flush=True)
    save()
    print(f"done at {time.time() - BEGAN:.0f} s", flush=True)


if __name__ == "__main__":
    main()
