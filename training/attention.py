"""Which tokens see which, and attention over it. Rows hold several samples; a token sees only its own sample's.

full layer:    key <= query
sliding layer: (key <= query, or both in the same picture) and query - key < window

Two forms with the same result: dense masks (any device), and block masks for torch's flex_attention, which skips what nobody sees (CUDA, compiled).
"""

import torch
import torch.nn.functional as F

TILE = 128


def attend(q, k, v, mask):
    """q, k, v [B, heads, L, d]; scale 1."""
    if isinstance(mask, torch.Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v, block_mask=mask, scale=1.0)


def dense_masks(samples, blocks, window):
    """samples, blocks [B, L] -> {kind: bool [B, 1, L, L]}. blocks: the picture's number within the row, 0 outside of pictures."""
    length = samples.shape[1]
    at = torch.arange(length, device=samples.device)
    distance = at[:, None] - at[None, :]
    same = samples[:, :, None] == samples[:, None, :]
    full = same & (distance >= 0)
    sliding = full
    if blocks is not None:
        sliding = sliding | ((blocks[:, :, None] == blocks[:, None, :]) & (blocks > 0)[:, :, None])
    return {"full_attention": full[:, None], "sliding_attention": (sliding & (distance < window))[:, None]}


class BlockMasks:
    """Masks of one shape for flex_attention. The functions that decide about single pairs are made once and read buffers that are filled anew for every batch,
    so that compiled code is never made again. One instance serves one batch at a time, forward and backward."""

    def __init__(self, rows, length, window, device):
        self.samples = torch.zeros(rows, length, dtype=torch.int32, device=device)
        self.blocks = torch.zeros(rows, length, dtype=torch.int32, device=device)
        self.window, self.tiles = window, length // TILE
        samples, blocks = self.samples, self.blocks

        def full(b, h, q, k):
            return (samples[b, q] == samples[b, k]) & (q >= k)

        def sliding(b, h, q, k):
            picture = (blocks[b, q] > 0) & (blocks[b, q] == blocks[b, k])
            return (samples[b, q] == samples[b, k]) & ((q >= k) | picture) & (q - k < window)

        self.rules = {"full_attention": full, "sliding_attention": sliding}

    def __call__(self, samples, blocks):
        from torch.nn.attention.flex_attention import BlockMask

        self.samples.copy_(samples)
        self.blocks.copy_(blocks)
        # Sample numbers grow along a row; padding comes last.
        order = torch.where(self.samples < 0, 1 << 20, self.samples).view(samples.shape[0], self.tiles, TILE)
        low, high = order[:, :, 0], order[:, :, -1]
        touching = (low[:, :, None] <= high[:, None, :]) & (low[:, None, :] <= high[:, :, None])
        tile = torch.arange(self.tiles, device=samples.device)
        ahead = tile[:, None] - tile[None, :]  # query tile less key tile
        pictures = self.blocks.view(samples.shape[0], self.tiles, TILE)
        onward = (pictures[:, :, -1, None] == pictures[:, None, :, 0]) & (pictures[:, :, -1, None] > 0) & (ahead < 0)
        wanted = {"full_attention": touching & (ahead >= 0), "sliding_attention": (touching & (ahead >= 0) & ((ahead - 1) * TILE + 1 < self.window)) | onward}
        masks = {}
        for kind, tiles in wanted.items():
            count = tiles.sum(-1, dtype=torch.int32)[:, None]
            indices = torch.argsort(tiles.to(torch.int32), dim=-1, descending=True, stable=True).to(torch.int32)[:, None]
            masks[kind] = BlockMask.from_kv_blocks(count, indices, BLOCK_SIZE=TILE, mask_mod=self.rules[kind])
        return masks
