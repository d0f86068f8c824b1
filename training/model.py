"""The Gemma 4 unified model in PyTorch, small and plain: what the C++ model computes, differentiable. Rules as in src/model/model.h and media_embedder.h."""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from torch import nn

from training.attention import attend, dense_masks


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

    def projected(self, x, cos, sin):
        """q [B, heads, L, d] and k, v [B, kv, L, d], normed and turned."""
        b, length, _ = x.shape
        heads = lambda t, n: t.view(b, length, n, self.d).transpose(1, 2)
        y = rms(x, self.input_layernorm)
        k = heads(self.k_proj(y), self.kv)
        v = k if self.v_proj is None else heads(self.v_proj(y), self.kv)
        q = rotate(rms(heads(self.q_proj(y), self.heads), self.q_norm), cos, sin)
        k, v = rotate(rms(k, self.k_norm), cos, sin), rms(v)
        return q.to(v.dtype), k.to(v.dtype), v

    def finished(self, x, a):
        """What the layer gives for its input and what its heads saw, a [B, heads, L, d]."""
        b, length, _ = x.shape
        x = x + rms(self.o_proj(a.transpose(1, 2).reshape(b, length, self.heads * self.d)), self.post_attention_layernorm)
        y = rms(x, self.pre_feedforward_layernorm)
        f = self.down_proj(F.gelu(self.gate_proj(y), approximate="tanh") * self.up_proj(y))
        return (x + rms(f, self.post_feedforward_layernorm)) * self.layer_scalar

    def forward(self, x, cos, sin, mask):
        q, k, v = self.projected(x, cos, sin)
        group = self.heads // self.kv
        return self.finished(x, attend(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), mask))


class MediaEmbedder(nn.Module):
    """Patches [n, 6912] with positions and frames [n, 640] into the residual stream."""

    def __init__(self, config):
        super().__init__()
        hidden, v, a = config["text_config"]["hidden_size"], config["vision_config"], config["audio_config"]
        width, patch = v["mm_embed_dim"], v["model_patch_size"] ** 2 * 3
        self.eps = v["rms_norm_eps"]
        self.patch_ln1, self.patch_ln2, self.pos_norm = nn.LayerNorm(patch), nn.LayerNorm(width), nn.LayerNorm(width)
        self.patch_dense = nn.Linear(patch, width)
        self.pos_embedding = nn.Parameter(torch.zeros(v["mm_posemb_size"], 2, width))
        self.image_projection = nn.Linear(width, hidden, bias=False)
        self.audio_projection = nn.Linear(a["audio_embed_dim"], hidden, bias=False)

    def initialize(self):
        self.initialize_pictures()
        # A frame is a waveform: its rows begin as sines and cosines, the dialled tones' first, since the phase of a tone must not matter and random rows find that late.
        from training.audio import FREQUENCIES

        rows, length = self.audio_projection.weight.shape
        spread = torch.logspace(math.log10(120), math.log10(3800), rows // 2 - len(FREQUENCIES)).tolist()
        at = torch.arange(length, dtype=torch.float64) / 16000 * 2 * math.pi
        window = torch.hann_window(length, periodic=False, dtype=torch.float64)
        waves = [wave * window for f in (*FREQUENCIES, *spread) for wave in (torch.sin(at * f), torch.cos(at * f))]
        with torch.no_grad():
            self.audio_projection.weight.copy_(torch.stack([w / w.norm() for w in waves]) * 0.3)

    def initialize_pictures(self):
        """A picture's energy falls with the square of the frequency, and training from random rows makes that steeper still: the colour is learnt and the outline is lost. So the rows of
        patch_dense begin as the lowest cosines of the patch, in brightness and two differences of colours, the weaker a frequency is in pictures the stronger."""
        rows, side = len(self.patch_dense.weight), math.isqrt(self.patch_dense.weight.shape[1] // 3)
        mixes = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]], dtype=torch.float64)
        mixes /= mixes.norm(dim=1, keepdim=True)
        at = (torch.arange(side, dtype=torch.float64) + 0.5) * math.pi / side
        order = sorted(((u * u + v * v, u, v) for u in range(16) for v in range(16)))[: -(-rows // 3)]
        waves = [(torch.cos(v * at)[:, None] * torch.cos(u * at), (1 + f**0.5) ** 2) for f, u, v in order]
        weights = torch.stack([(wave / wave.norm() * gain)[..., None] * mix for wave, gain in waves for mix in mixes])[:rows].reshape(rows, -1)
        with torch.no_grad():
            self.patch_dense.weight.copy_(weights * 0.02)
        for norm in (self.patch_ln1, self.patch_ln2, self.pos_norm):
            norm.reset_parameters()
        nn.init.zeros_(self.patch_dense.bias)
        nn.init.normal_(self.pos_embedding, std=0.3)
        nn.init.normal_(self.image_projection.weight, std=self.image_projection.weight.shape[1] ** -0.5)

    def patient(self):
        """Parameters that read thousands of pixels that look alike: steps that suit the other matrices would wipe out their details. Measured on a CPU at a third of the resolution, one shape a
        picture, after 1200 steps of 96: which shape it is was right in 25 % with random rows and plain steps, 39 % with cosines and steps of 0.04, 52 % with details raised and of 0.004."""
        return [self.patch_dense.weight, self.patch_ln1.weight, self.patch_ln1.bias]

    def images(self, patches, xy):
        z = self.patch_ln2(self.patch_dense(self.patch_ln1(patches.float() / 255)))
        z = z + (self.pos_embedding[xy[:, 0], 0] + self.pos_embedding[xy[:, 1], 1])
        return self.image_projection(rms(self.pos_norm(z), eps=self.eps))

    def sounds(self, frames):
        return self.audio_projection(rms(frames, eps=self.eps))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = c = config["text_config"]
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(c["hidden_size"]))
        self.scale = float(torch.tensor(math.sqrt(c["hidden_size"])).to(torch.bfloat16))
        self.media = MediaEmbedder(config) if config.get("vision_config") and config.get("audio_config") else None
        self.masks = None  # a BlockMasks, while the layers are compiled for one shape
        self.kinds = ["full_attention" if layer.full else "sliding_attention" for layer in self.layers]

    def initialize(self, scalar_base=0.90, scalar_step=0.01):
        for layer in self.layers:
            for p in layer.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=0.02)
            # Attention has scale 1: this gives its logits a deviation of 1 instead of sqrt(d), with which every head would begin by looking at one token taken at random.
            nn.init.constant_(layer.q_norm, layer.d**-0.25)
            nn.init.constant_(layer.k_norm, layer.d**-0.25)
        nn.init.normal_(self.embed_tokens.weight, std=1.0 / self.scale)
        for i, layer in enumerate(self.layers):
            layer.layer_scalar.fill_(scalar_base + scalar_step * i)  # not trained: a runtime that forgets it is visibly wrong
        if self.media:
            self.media.initialize()

    def rotary(self, kind, positions):
        c = self.config
        d = c["global_head_dim"] if kind == "full_attention" else c["head_dim"]
        rope = c["rope_parameters"][kind]
        pairs = int(rope.get("partial_rotary_factor", 1.0) * d / 2) if rope["rope_type"] == "proportional" else d // 2
        f = rope["rope_theta"] ** (-2.0 * torch.arange(pairs, device=positions.device, dtype=torch.float64) / d)
        angle = positions.float()[:, None, :, None] * f.float()
        return angle.cos(), angle.sin()

    def embed(self, ids, soft):
        x = self.embed_tokens(ids) * self.scale
        if soft and self.media:
            flat = x.view(-1, x.shape[-1])
            # index_put needs nothing of the shapes; the gradient reaches the embedder and the words that stay.
            if len(soft["image"]):
                flat = flat.index_put((soft["image_at"],), self.media.images(soft["image"], soft["image_xy"].long()).to(x.dtype))
            if len(soft["audio"]):
                flat = flat.index_put((soft["audio_at"],), self.media.sounds(soft["audio"]).to(x.dtype))
            x = flat.view_as(x)
        return x

    def forward(self, ids, positions, samples, blocks=None, soft=None, keep=None):
        """ids, positions, samples, blocks [B, L]: a token sees earlier tokens of its own sample, in sliding layers also later ones of its picture. soft: soft inputs and the flat
        places they go to, as packing.batch names them. Returns the normed hidden states. keep: a dict that receives what the last layer of each kind was given."""
        x = self.embed(ids, soft)
        masks = self.masks(samples, blocks) if self.masks else dense_masks(samples, blocks, self.config["sliding_window"])
        rotary = {kind: self.rotary(kind, positions) for kind in set(self.kinds)}
        last = {kind: i for i, kind in enumerate(self.kinds)}
        for i, (layer, kind) in enumerate(zip(self.layers, self.kinds)):
            cos, sin = rotary[kind]
            if keep is not None and last[kind] == i:
                keep[kind] = (x, cos, sin, masks[kind])
            x = (layer if self.masks else layer.forward)(x, cos, sin, masks[kind])  # compiled code is for the one shape of the block masks
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
        if self.media:
            m, prefix = self.media, "model.vision_embedder."
            for name in ("patch_ln1", "patch_dense", "patch_ln2", "pos_norm"):
                yield f"{prefix}{name}.weight", getattr(m, name).weight
                yield f"{prefix}{name}.bias", getattr(m, name).bias
            yield f"{prefix}pos_embedding", m.pos_embedding
            yield "model.embed_vision.embedding_projection.weight", m.image_projection.weight
            yield "model.embed_audio.embedding_projection.weight", m.audio_projection.weight

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
