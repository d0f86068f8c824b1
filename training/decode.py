"""Replies of the twin, many at a time: prompts in one pass, then a token for every row a step, over keys and values that are kept."""

import time

import torch

from training import packing
from training.attention import attend, dense_masks
from training.model import rms

STOPS = (106, 50, 1)
TOKENS = {"cuda": 1 << 20, "cpu": 1 << 14}  # of all rows of a batch, prompts and replies: keys and values take 6 KiB a token


def encoded_prompt(renderer, s):
    """(ids, blocks, soft inputs with their places) of a sample's prompt."""
    image_id, audio_id = (renderer.tokenizer.token_to_id(t) for t in ("<|image|>", "<|audio|>"))
    ids, soft = renderer.prompt_ids(s)
    row = packing.Row(len(ids))
    row.add(ids, [0.0] * len(ids), soft, image_id, audio_id)
    return ids, row.arrays["blocks"], row.soft


class Kept:
    """Keys and values of all layers for rows of at most `room` tokens."""

    def __init__(self, model, rows, room, device, dtype):
        make = lambda layer: torch.zeros(rows, layer.kv, room, layer.d, device=device, dtype=dtype)
        self.k, self.v = [make(layer) for layer in model.layers], [make(layer) for layer in model.layers]
        self.rows, self.places, self.window = torch.arange(rows, device=device), torch.arange(room, device=device), model.config["sliding_window"]

    def read(self, model, ids, blocks, soft):
        """The prompts, padded behind their ends with anything: nobody looks there. Returns the hidden states."""
        length = ids.shape[1]
        masks = dense_masks(torch.zeros_like(ids), blocks, self.window)
        rotary = {kind: model.rotary(kind, self.places[None, :length]) for kind in masks}
        x = model.embed(ids, soft)
        for i, (layer, kind) in enumerate(zip(model.layers, model.kinds)):
            q, k, v = layer.projected(x, *rotary[kind])
            self.k[i][:, :, :length], self.v[i][:, :, :length] = k, v
            group = layer.heads // layer.kv
            x = layer.finished(x, attend(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), masks[kind]))
        return rms(x, model.norm)

    def step(self, model, token, at):
        """One token a row, standing at `at` [rows]. Returns the hidden states [rows, hidden]."""
        behind = at[:, None] - self.places
        masks = {"full_attention": behind >= 0, "sliding_attention": (behind >= 0) & (behind < self.window)}
        hidden = {kind: torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))[:, None, None] for kind, mask in masks.items()}
        rotary = {kind: model.rotary(kind, at[:, None]) for kind in masks}
        x = model.embed_tokens(token[:, None]) * model.scale
        for i, (layer, kind) in enumerate(zip(model.layers, model.kinds)):
            q, k, v = layer.projected(x, *rotary[kind])
            self.k[i][self.rows, :, at], self.v[i][self.rows, :, at] = k[:, :, 0].to(self.k[i].dtype), v[:, :, 0].to(self.v[i].dtype)
            q = q.reshape(len(at), layer.kv, layer.heads // layer.kv, layer.d)  # the heads of one key head, as if they were tokens
            p = (torch.matmul(q, self.k[i].transpose(-1, -2)).float() + hidden[kind]).softmax(-1)
            a = torch.matmul(p.to(self.v[i].dtype), self.v[i])
            x = layer.finished(x, a.reshape(len(at), layer.heads, 1, layer.d))
        return rms(x, model.norm)[:, 0]


@torch.no_grad()
def replies(model, prompts, device, max_new, temperature=0.0, ends_at=None):
    """Token ids of each prompt's reply, the stop token included where one came within max_new. Greedy, or sampled at a temperature. prompts: of encoded_prompt.
    After ends_at no further batch is begun: those replies are None."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][0]))
    out = [None] * len(prompts)
    while order:
        if ends_at is not None and time.time() > ends_at:
            break
        # The longest prompt decides the width: the most that fit, from the short end.
        count = 1
        while count < len(order) and (count + 1) * (len(prompts[order[count]][0]) + max_new) <= TOKENS[device]:
            count += 1
        chosen, order = order[:count], order[count:]
        for i, ids in zip(chosen, batch_of_replies(model, [prompts[i] for i in chosen], device, max_new, temperature)):
            out[i] = ids
    return out


def batch_of_replies(model, prompts, device, max_new, temperature):
    lengths = [len(p[0]) for p in prompts]
    length = max(lengths)
    ids, blocks = torch.zeros(len(prompts), length, dtype=torch.long), torch.zeros(len(prompts), length, dtype=torch.int32)
    for row, (prompt, its_blocks, _) in enumerate(prompts):
        ids[row, : len(prompt)], blocks[row, : len(prompt)] = torch.tensor(prompt), torch.from_numpy(its_blocks)
    ids, blocks, at = ids.to(device), blocks.to(device), torch.tensor(lengths, device=device)
    softs = [p[2] for p in prompts]
    soft = {k: torch.from_numpy(v).to(device) for k, v in packing.soft_batch(softs, length).items()} if any(softs) else None
    stops, pad = torch.tensor(STOPS, device=device), STOPS[0]
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        kept = Kept(model, len(prompts), length + max_new, device, torch.bfloat16 if device == "cuda" else torch.float32)
        hidden = kept.read(model, ids, blocks, soft)[kept.rows, at - 1]
        done, said = torch.zeros(len(prompts), dtype=torch.bool, device=device), []
        for n in range(max_new):
            logits = model.logits(hidden)
            token = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0] if temperature > 0 else logits.argmax(-1)
            said.append(token.masked_fill(done, pad))
            done = done | torch.isin(token, stops)
            if n + 1 == max_new or (n % 8 == 7 and bool(done.all())):
                break
            hidden = kept.step(model, said[-1], at)
            at = at + 1
    return [cut(row) for row in torch.stack(said, 1).tolist()]


def cut(row):
    """Up to the first stop token, with it."""
    for i, token in enumerate(row):
        if token in STOPS:
            return row[: i + 1]
    return row
