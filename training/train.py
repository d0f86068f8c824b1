"""Training of the target: a schedule over elapsed time, so that it ends when it must."""

import time

import torch

from training.compiled import compile_model


def move(batch, device):
    """A batch of packing.batches on the device, in the types that the model takes."""
    out = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    for k in ("ids", "positions", "samples"):
        out[k] = out[k].long()
    return out


def loader(encoded_of, length, size, workers, pin):
    """Batches from worker processes. encoded_of(worker) -> endless encoded samples, as packing.rows takes them; called in the worker."""
    from torch.utils.data import DataLoader, IterableDataset

    from training import packing

    class Batches(IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            return packing.batches(encoded_of(info.id if info else 0), length, size)

    return iter(DataLoader(Batches(), batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None, pin_memory=pin))


def weighted_loss(hidden, table, cap, targets, weights):
    """(sum of weighted losses, sum and count of those of weight 1): the head, the softcap and the cross-entropy, f32 after the product."""
    logits = torch.nn.functional.linear(hidden, table.to(hidden.dtype)).float()
    logits = cap * torch.tanh(logits / cap)
    losses = torch.logsumexp(logits, -1) - logits.gather(-1, targets[..., None])[..., 0]
    full = (weights == 1).float()
    return (losses * weights).sum(), (losses.detach() * full).sum(), full.sum()


def loss_of(model, b, loss_function, device):
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        hidden = model(b["ids"], b["positions"], b["samples"], b["blocks"], b)
        targets = torch.nn.functional.pad(b["ids"][:, 1:], (0, 1))
        total, reply_loss, reply_tokens = loss_function(hidden, model.embed_tokens.weight, model.config["final_logit_softcapping"], targets, b["weights"])
    return total / b["weights"].sum(), reply_loss, reply_tokens


def compile_for(model, b, device):
    """Compiles layers and loss for batches of b's shape and checks them on it. Returns the loss function; if anything fails, the plain one."""
    if device != "cuda" or not compile_model(model, b, device):
        return weighted_loss
    try:
        compiled_loss = torch.compile(weighted_loss)
        _, plain, _ = loss_of(model, b, weighted_loss, device)
        loss, compiled, _ = loss_of(model, b, compiled_loss, device)
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters()), "a gradient is missing or not finite"
        assert abs(float(compiled) / float(plain) - 1) < 1e-2, f"loss {float(compiled)}, {float(plain)} without compiling"
        return compiled_loss
    except Exception as error:
        print("no compiled loss:", repr(error)[:2000], flush=True)
        return weighted_loss
    finally:
        model.zero_grad(set_to_none=True)


def train(model, stream, device, log, ends_at, steps=0, peak=2e-3, checkpoint=None):
    """Until the clock says ends_at, or for so many steps. checkpoint(progress) is called after 60, 80 and 95 % with averaged weights in place once there are any."""
    began = time.time()
    batch = move(next(stream), device)
    loss_function = compile_for(model, batch, device)
    print(f"ready after {time.time() - began:.0f} s", flush=True)
    patient = model.media.patient() if model.media else []
    quick = [p for p in model.parameters() if all(p is not q for q in patient)]
    decay = [p for p in quick if p.dim() == 2 and p is not model.embed_tokens.weight]
    others = [p for p in quick if p.dim() != 2 or p is model.embed_tokens.weight]
    scales = [1.0, 1.0, 0.003]
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}, {"params": patient, "weight_decay": 0.0}], lr=peak, betas=(0.9, 0.95), eps=1e-8, **fused)
    parameters = [p for p in model.parameters()]
    average, averaging = [p.detach().clone() for p in parameters], False
    saves = [0.6, 0.8, 0.95]
    first, tokens, step, waited = time.time(), 0, 0, 0.0
    while True:
        progress = step / steps if steps else (time.time() - first) / max(1e-9, ends_at - first)
        if progress >= 1:
            break
        # Warm-up by steps, constant to 60 %, then linear to 2 %.
        lr = peak * min(1.0, (step + 1) / 100) * (1.0 if progress < 0.6 else max(0.02, 1 - 0.98 * (progress - 0.6) / 0.4))
        for group, scale in zip(optimizer.param_groups, scales):
            group["lr"] = lr * scale
        if step:
            asked = time.time()
            batch = next(stream)
            waited += time.time() - asked
            batch = move(batch, device)
        loss, reply_loss, reply_tokens = loss_of(model, batch, loss_function, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if progress > 0.8:
            with torch.no_grad():
                if averaging:
                    torch._foreach_lerp_(average, parameters, 0.002)
                else:
                    torch._foreach_copy_(average, parameters)
            averaging = True
        step += 1
        tokens += batch["ids"].numel()
        if step in (1, 10, 50) or step % 200 == 0 or (steps and steps < 50):
            value, elapsed = float(reply_loss / reply_tokens.clamp(min=1)), time.time() - first
            log.append({"step": step, "seconds": round(elapsed, 1), "loss": round(value, 4), "lr": lr, "tokens": tokens, "waited": round(waited, 1)})
            print(f"step {step} loss {value:.4f} lr {lr:.2e} {tokens / 1e6:.1f} M tokens, {tokens / elapsed / 1e3:.0f} k tokens/s, waited {waited:.1f} s for data, {100 * progress:.0f} %", flush=True)
        elif step % 20 == 0 and device == "cuda":
            torch.cuda.synchronize()  # the clock must not run ahead of the work
        if checkpoint and saves and progress > saves[0]:
            saves.pop(0)
            swap(parameters, average if averaging else None)
            checkpoint(progress)
            swap(parameters, average if averaging else None)
    if averaging:
        swap(parameters, average)
    model.masks = None
    with torch.no_grad():  # what ships is BF16: judge that
        for p in parameters:
            p.copy_(p.to(torch.bfloat16).float())


@torch.no_grad()
def swap(parameters, others):
    if others is None:
        return
    for p, o in zip(parameters, others):
        held = p.detach().clone()
        p.copy_(o)
        o.copy_(held)
