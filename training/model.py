"""The Gemma 4 unified text model in PyTorch, small and plain: what the C++ model computes, differentiable. Rules as in src/model/model.h."""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from torch import nn


def rms(x, weight=None, eps=1e-6):
    y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
    return (y * weight.float() if weight is not None else y).to(x.dtype)


def rotate(x, cos, sin):
    """x [B, heads, L, d]; cos, sin [L or B x L, pairs]: pairs (p, p + d/2) turn, the others pass."""
    half, pairs = x.shape[-1] // 2, cos.shape[-1]
    a, b = x[..., :pairs], x[..., half : half + pairs]
    return torch.cat([a * cos - b * sin, x[..., pairs:half], b * cos + a * sin, x[..., half + pairs :]], -1)


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        self.full = c["layer_types"][index] == "full_attention"
        h, inner, self.heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
        self.d = c["global_head_dim"] if self.full else c["head_dim"]
        k_eq_v = self.full and c["attention_k_eq_v"]
        self.kv = c["num_global_key_value_heads"] if k_eq_v else c["num_key_value_heads"]
        linear = lambda out, size: nn.Linear(size, out, bias=False)
        self.q_proj, self.k_proj = linear(self.heads * self.d, h), linear(self.kv * self.d, h)
        self.v_proj = None if k_eq_v else linear(self.kv * self.d, h)
        self.o_proj = linear(h, self.heads * self.d)
        self.gate_proj, self.up_proj, self.down_proj = linear(inner, h), linear(inner, h), linear(h, inner)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(self.d)), nn.Parameter(torch.ones(self.d))
        for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"):
            setattr(self, name, nn.Parameter(torch.ones(h)))
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(self, x, cos, sin, mask):
        b, length, _ = x.shape
        heads = lambda t, n: t.view(b, length, n, self.d).transpose(1, 2)
        y = rms(x, self.input_layernorm)
        k = heads(self.k_proj(y), self.kv)
        v = k if self.v_proj is None else heads(self.v_proj(y), self.kv)
        q = rotate(rms(heads(self.q_proj(y), self.heads), self.q_norm), cos, sin)
        k, v = rotate(rms(k, self.k_norm), cos, sin), rms(v)
        group = self.heads // self.kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask, scale=1.0)
        a = a.transpose(1, 2).reshape(b, length, self.heads * self.d)
        x = x + rms(self.o_proj(a), self.post_attention_layernorm)
        y = rms(x, self.pre_feedforward_layernorm)
        f = self.down_proj(F.gelu(self.gate_proj(y), approximate="tanh") * self.up_proj(y))
        return (x + rms(f, self.post_feedforward_layernorm)) * self.layer_scalar


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = c = config["text_config"]
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(c["hidden_size"]))
        self.scale = float(torch.tensor(math.sqrt(c["hidden_size"])).to(torch.bfloat16))

    def initialize(self, scalar_base=0.90, scalar_step=0.01):
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        nn.init.normal_(self.embed_tokens.weight, std=1.0 / self.scale)
        for i, layer in enumerate(self.layers):
            layer.layer_scalar.fill_(scalar_base + scalar_step * i)  # not trained: a runtime that forgets it is visibly wrong

    def rotary(self, kind, positions):
        c = self.config
        d = c["global_head_dim"] if kind == "full_attention" else c["head_dim"]
        rope = c["rope_parameters"][kind]
        pairs = int(rope.get("partial_rotary_factor", 1.0) * d / 2) if rope["rope_type"] == "proportional" else d // 2
        f = rope["rope_theta"] ** (-2.0 * torch.arange(pairs, device=positions.device, dtype=torch.float64) / d)
        angle = positions.float()[:, None, :, None] * f.float()
        return angle.cos(), angle.sin()

    def forward(self, ids, positions, samples):
        """ids, positions, samples [B, L]: a token sees earlier tokens of its own sample. Returns the normed hidden states."""
        x = self.embed_tokens(ids) * self.scale
        distance = positions[:, :, None] - positions[:, None, :]
        same = samples[:, :, None] == samples[:, None, :]
        full = (same & (distance >= 0))[:, None]
        sliding = full & (distance < self.config["sliding_window"])[:, None]
        rotary = {kind: self.rotary(kind, positions) for kind in ("full_attention", "sliding_attention")}
        for layer in self.layers:
            cos, sin = rotary["full_attention" if layer.full else "sliding_attention"]
            x = layer(x, cos, sin, full if layer.full else sliding)
        return rms(x, self.norm)

    def logits(self, hidden):
        y = F.linear(hidden, self.embed_tokens.weight.to(hidden.dtype)).float()
        cap = self.config["final_logit_softcapping"]
        return cap * torch.tanh(y / cap) if cap else y

    # ---- the checkpoint's names ----

    def checkpoint_names(self):
        lm = "model.language_model."
        yield lm + "embed_tokens.weight", self.embed_tokens.weight
        yield lm + "norm.weight", self.norm
        for i, layer in enumerate(self.layers):
            prefix = f"{lm}layers.{i}."
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                if getattr(layer, name) is not None:
                    yield f"{prefix}self_attn.{name}.weight", getattr(layer, name).weight
            for name in ("q_norm", "k_norm"):
                yield f"{prefix}self_attn.{name}.weight", getattr(layer, name)
            for name in ("gate_proj", "up_proj", "down_proj"):
                yield f"{prefix}mlp.{name}.weight", getattr(layer, name).weight
            for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"):
                yield f"{prefix}{name}.weight", getattr(layer, name)
            yield f"{prefix}layer_scalar", layer.layer_scalar

    def save(self, path):
        from safetensors.torch import save_file

        save_file({n: t.detach().to(torch.bfloat16).cpu().contiguous() for n, t in self.checkpoint_names()}, str(path), metadata={"format": "pt"})

    @classmethod
    def load(cls, folder):
        from safetensors.torch import load_file

        folder = pathlib.Path(folder)
        model = cls(json.loads((folder / "config.json").read_text()))
        stored = load_file(str(folder / "model.safetensors"))
        with torch.no_grad():
            for name, tensor in model.checkpoint_names():
                tensor.copy_(stored[name].to(tensor.dtype))
        return model
