"""Compiled layers with block masks, and the check that they compute what the plain ones do.

Attention of an untrained model is sharp (scale 1 on normed queries and keys), and what rounding to BF16 does to one layer grows over twelve: whole forwards cannot be compared.
So every layer is given the plain path's own input, and what it adds to it is compared token by token, and the gradient that comes back through it as a whole.
"""

import time

import torch

from training.attention import BlockMasks, dense_masks

FAR = 0.15  # a token whose update differs by more, relative to the update
# Measured on a CPU, an untrained model, two rows of 1024 tokens. BF16 against f32, both plain: no token is far, the worst 0.010, the worst layer's gradient differs by 0.009; where attention
# is sharp (queries and keys normed to deviation 8, as trained layers may come to be) 0.054 and 0.037. With a wrong mask, BF16 on both sides: window wider by a tile 24 % of the tokens are
# far, narrower by one token 0.3 %, picture rule left out 2.2 % (3 % of the tokens were a picture's), samples seeing each other 86 %, no causality 73 % and more.
FAR_SHARE, GRADIENT = 0.002, 0.1


def update(form, scalar, x, arguments, push, bf16):
    """What a layer adds to x, the gradient of that with respect to x under `push`, and its output."""
    x = x.detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
        y = form(x, *arguments)
    (gradient,) = torch.autograd.grad(y, x, push)
    return y.detach() / scalar - x.detach(), gradient - push * scalar, y.detach()


@torch.no_grad()
def compared(layers, x, inside, bf16=(True, True)):
    """[(share of far tokens, worst token, difference of the gradients)], one for each layer. layers: (layer, its arguments behind x, its other form, that one's arguments).
    x [B, L, hidden]: the first one's input. bf16: whether the plain and the other forms run under autocast."""
    generator, found = torch.Generator(x.device).manual_seed(0), []
    for layer, arguments, form, others in layers:
        scalar, push = float(layer.layer_scalar), (torch.randn(x.shape, generator=generator, device=x.device) * inside[..., None]).to(x.dtype)
        want, want_gradient, y = update(layer.forward, scalar, x, arguments, push, bf16[0])
        got, got_gradient, _ = update(form, scalar, x, others, push, bf16[1])
        error = ((got - want).norm(dim=-1) / want.norm(dim=-1))[inside]
        found.append((float((~(error < FAR)).float().mean()), float(error.max()), float((got_gradient - want_gradient).norm() / want_gradient.norm())))
        x = y
    return found


@torch.no_grad()
def differences(model, b, forms, masks, bf16=(True, True)):
    """`compared` for the target's layers on a batch: their other forms under masks, against the plain ones under dense masks."""
    dense = dense_masks(b["samples"], b["blocks"], model.config["sliding_window"])
    rotary = {kind: model.rotary(kind, b["positions"]) for kind in dense}
    layers = [(layer, (*rotary[kind], dense[kind]), form, (*rotary[kind], masks[kind])) for layer, kind, form in zip(model.layers, model.kinds, forms)]
    return compared(layers, model.embed(b["ids"], b).float(), b["samples"] >= 0, bf16)


def same(found):
    """The worst over the layers as one line, and whether it passes; NaN does not."""
    share, worst, gradient = (max(f[i] if f[i] == f[i] else float("inf") for f in found) for i in range(3))
    return f"{100 * share:.2f} % of the tokens far, worst {worst:.3f}, gradients {gradient:.4f}", share <= FAR_SHARE and gradient <= GRADIENT


def compile_layers(layers, check):
    """Compiles the layers and runs check() -> what `compared` gives. Where anything fails they are plain again: returns whether they are compiled."""
    began = time.time()
    try:
        for layer in layers:
            layer.compile()
        text, passed = same(check())
        print(f"compiled layers with block masks against plain ones: {text}, {time.time() - began:.0f} s", flush=True)
        if passed:
            return True
        print("no compiled layers: they compute something else", flush=True)
    except Exception as error:
        print("no compiled layers:", repr(error)[:2000], flush=True)
    for layer in layers:
        layer._compiled_call_impl = None
    torch._dynamo.reset()
    return False


def compile_model(model, b, device):
    """The target's layers, for batches of b's shape."""
    masks = BlockMasks(*b["ids"].shape, model.config["sliding_window"], device)
    if compile_layers(model.layers, lambda: differences(model, b, model.layers, masks(b["samples"], b["blocks"]))):
        model.masks = masks
    return model.masks is not None
