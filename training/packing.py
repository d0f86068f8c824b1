"""Batches of packed rows: samples one after another, each seeing only itself."""

import numpy as np

BLOCKS = 1000  # picture number i of sample s of a row has block s * BLOCKS + i + 1; 0: no picture


def rows(encoded, length):
    """(ids, weights, soft) of samples -> endless rows {"ids", "positions", "samples", "blocks", "weights": [length], "soft": [...]}, filled greedily.
    The weight of predicting a token is stored at the token before it. soft: (kind, values, positions, indices into the row)."""
    row = Row(length)
    for ids, weights, soft, image_id, audio_id in encoded:
        if len(ids) > length:
            continue
        if row.used + len(ids) > length:
            yield row.finished()
            row = Row(length)
        row.add(ids, weights, soft, image_id, audio_id)


class Row:
    def __init__(self, length):
        self.used, self.number, self.soft = 0, 0, []
        self.arrays = {"ids": np.zeros(length, np.int16), "positions": np.zeros(length, np.int16), "samples": np.full(length, -1, np.int16), "blocks": np.zeros(length, np.int32), "weights": np.zeros(length, np.float32)}

    def add(self, ids, weights, soft, image_id, audio_id):
        at, n, a = self.used, len(ids), self.arrays
        ids = np.asarray(ids, np.int16)
        a["ids"][at : at + n] = ids
        a["positions"][at : at + n] = np.arange(n)
        a["samples"][at : at + n] = self.number
        a["weights"][at : at + n - 1] = weights[1:]
        if soft:
            places = {"image": np.nonzero(ids == image_id)[0], "audio": np.nonzero(ids == audio_id)[0]}
            for i, (kind, values, positions) in enumerate(soft):
                here, places[kind] = places[kind][: len(values)], places[kind][len(values) :]
                if kind == "image":
                    a["blocks"][at + here] = self.number * BLOCKS + i + 1
                self.soft.append((kind, values, positions, at + here))
        self.used, self.number = at + n, self.number + 1

    def finished(self):
        return {**self.arrays, "soft": self.soft}


def batch(some_rows):
    """Rows -> one dict of arrays [rows, length], with the soft inputs of all rows and where they go (flat indices)."""
    out = {k: np.stack([r[k] for r in some_rows]) for k in ("ids", "positions", "samples", "blocks", "weights")}
    return {**out, **soft_batch([r["soft"] for r in some_rows], out["ids"].shape[1])}


def soft_batch(softs, length):
    """The soft inputs of rows of that length and their flat places. softs: for each row [(kind, values, positions, places in the row)]."""
    out = {}
    for kind, width, dtype in (("image", 6912, np.uint8), ("audio", 640, np.float32)):
        found = [(values, positions, where + i * length) for i, soft in enumerate(softs) for k, values, positions, where in soft if k == kind]
        out[kind] = np.concatenate([f[0] for f in found]) if found else np.zeros((0, width), dtype)
        out[f"{kind}_at"] = np.concatenate([f[2] for f in found]) if found else np.zeros(0, np.int64)
        if kind == "image":
            out["image_xy"] = np.concatenate([f[1] for f in found]) if found else np.zeros((0, 2), np.int16)
    return out


def encoded_stream(samples, renderer):
    image_id, audio_id = (renderer.tokenizer.token_to_id(t) for t in ("<|image|>", "<|audio|>"))
    for s in samples:
        ids, weights, soft = renderer.encode(s)
        yield ids, weights, soft, image_id, audio_id


def batches(encoded, length, size):
    """Endless batches of encoded samples as dicts of torch tensors."""
    import torch

    waiting = []
    for row in rows(encoded, length):
        waiting.append(row)
        if len(waiting) == size:
            yield {k: torch.from_numpy(v) for k, v in batch(waiting).items()}
            waiting = []
