"""The MTP assistant in PyTorch: the same step as src/model/assistant.h, for all positions of a row at once, differentiable."""

import torch
import torch.nn.functional as F
from torch import nn

from training.attention import attend
from training.model import rms, rotate


def assistant_config(target):
    """config.json of an assistant for this target: half its width, four layers."""
    t = target["text_config"]
    text = {k: t[k] for k in ("vocab_size", "num_attention_heads", "num_key_value_heads", "num_global_key_value_heads", "head_dim", "global_head_dim", "attention_k_eq_v", "sliding_window",
                              "rope_parameters", "hidden_activation", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")}
    text |= {"model_type": "gemma4_unified_text", "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_kv_shared_layers": 4, "hidden_size_per_layer_input": 0,
             "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "final_logit_softcapping": None, "use_bidirectional_attention": None}
    return {"architectures": ["Gemma4UnifiedAssistantForCausalLM"], "model_type": "gemma4_unified_assistant", "dtype": "bfloat16", "backbone_hidden_size": t["hidden_size"],
            "use_ordered_embeddings": False, "tie_word_embeddings": True, "text_config": text}


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        self.kind = c["layer_types"][index]
        h, inner, self.heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
        self.d = c["global_head_dim"] if self.kind == "full_attention" else c["head_dim"]
        linear = lambda out, size: nn.Linear(size, out, bias=False)
        self.q_proj, self.o_proj = linear(self.heads * self.d, h), linear(h, self.heads * self.d)
        self.gate_proj, self.up_proj, self.down_proj = linear(inner, h), linear(inner, h), linear(h, inner)
        self.q_norm = nn.Parameter(torch.ones(self.d))
        for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"):
            setattr(self, name, nn.Parameter(torch.ones(h)))
        self.register_buffer("layer_scalar", torch.ones(1))

    def forward(self, x, k, v, cos, sin, mask):
        b, length, _ = x.shape
        q = self.q_proj(rms(x, self.input_layernorm)).view(b, length, self.heads, self.d).transpose(1, 2)
        q = rotate(rms(q, self.q_norm), cos, sin)
        a = attend(q.to(v.dtype), k.to(v.dtype), v, mask)
        x = x + rms(self.o_proj(a.transpose(1, 2).reshape(b, length, self.heads * self.d)), self.post_attention_layernorm)
        y = rms(x, self.pre_feedforward_layernorm)
        f = self.down_proj(F.gelu(self.gate_proj(y), approximate="tanh") * self.up_proj(y))
        return (x + rms(f, self.post_feedforward_layernorm)) * self.layer_scalar


class Assistant(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = c = config["text_config"]
        backbone = config["backbone_hidden_size"]
        self.pre_projection = nn.Linear(2 * backbone, c["hidden_size"], bias=False)
        self.post_projection = nn.Linear(c["hidden_size"], backbone, bias=False)
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(c["hidden_size"]))
        self.masks = None  # a BlockMasks, while the layers are compiled for one shape

    @torch.no_grad()
    def initialize(self, target):
        """Begins near to what the target would say: its words' 128 main directions are the table, and the stream carries the target's hidden state along them."""
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
        table, size = target.embed_tokens.weight.detach().float().cpu(), lambda t: float(t.detach().float().pow(2).mean().sqrt())
        directions = torch.linalg.svd(table, full_matrices=False)[2][: self.embed_tokens.weight.shape[1]]
        self.embed_tokens.weight.copy_(table @ directions.T)
        self.post_projection.weight.copy_(directions.T)
        words, hidden = self.pre_projection.weight.chunk(2, 1)
        nn.init.normal_(words, std=table.shape[1] ** -0.5 / (size(table) * target.scale))
        hidden.copy_(directions / size(target.norm))
        nn.init.constant_(self.norm, size(target.norm))
        last = {kind: layer for kind, layer in zip(target.kinds, target.layers)}
        for i, layer in enumerate(self.layers):
            nn.init.constant_(layer.q_norm, layer.d**-0.5 / size(last[layer.kind].k_norm))  # logits of deviation 1
            layer.layer_scalar.fill_(0.95 + 0.01 * i)  # not trained: a runtime that forgets it drafts visibly worse

    def step(self, embedded, hidden, context):
        """embedded, hidden [B, L, backbone]: returns the final-normed state and the next step's hidden."""
        x = self.pre_projection(torch.cat([embedded, hidden], -1))
        for layer in self.layers:
            x = (layer if self.masks else layer.forward)(x, *context[layer.kind])
        f = rms(x, self.norm)
        return f, self.post_projection(f)

    def logits(self, state):
        return F.linear(state, self.embed_tokens.weight.to(state.dtype)).float()

    def checkpoint_names(self):
        yield "pre_projection.weight", self.pre_projection.weight
        yield "post_projection.weight", self.post_projection.weight
        yield "model.embed_tokens.weight", self.embed_tokens.weight
        yield "model.norm.weight", self.norm
        for i, layer in enumerate(self.layers):
            prefix = f"model.layers.{i}."
            for name in ("q_proj", "o_proj"):
                yield f"{prefix}self_attn.{name}.weight", getattr(layer, name).weight
            yield f"{prefix}self_attn.q_norm.weight", layer.q_norm
            for name in ("gate_proj", "up_proj", "down_proj"):
                yield f"{prefix}mlp.{name}.weight", getattr(layer, name).weight
            for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"):
                yield f"{prefix}{name}.weight", getattr(layer, name)
            yield f"{prefix}layer_scalar", layer.layer_scalar

    def save(self, path):
        from safetensors.torch import save_file

        save_file({n: t.detach().to(torch.bfloat16).cpu().contiguous() for n, t in self.checkpoint_names()}, str(path), metadata={"format": "pt"})


@torch.no_grad()
def target_context(target, ids, positions, samples, blocks=None, soft=None):
    """One forward of the target: its hidden states, and for each kind of layer what the assistant's queries see. Entry i of a row serves the round whose
    last committed token is i: the query stands at position i and sees the keys up to i, which is the target's own mask. (Inside of a picture that mask also looks ahead,
    but no round begins there.)"""
    inputs = {}
    hidden = target(ids, positions, samples, blocks, soft, keep=inputs)
    last = {kind: target.layers[i] for i, kind in enumerate(target.kinds)}
    context = {}
    for kind, layer in last.items():
        x, cos, sin, mask = inputs[kind]
        _, k, v = layer.projected(x, cos, sin)
        group = layer.heads // layer.kv
        context[kind] = (k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), cos, sin, mask)
    return hidden, context


def shifted(t, by):
    """Entry i of the result is entry i + by; zeros behind the end."""
    return F.pad(t[:, by:], (0, by)) if t.dim() == 2 else F.pad(t[:, by:], (0, 0, 0, by))


def unroll(assistant, target, ids, hidden, context, steps):
    """Yields (j, state) for j = 1..steps: state i of step j guesses the token at i + j + 1, from the tokens up to i + j."""
    h = hidden
    for j in range(1, steps + 1):
        embedded = target.embed_tokens(shifted(ids, j)).detach() * target.scale
        state, h = assistant.step(embedded, h, context)
        yield j, state
