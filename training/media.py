"""Pictures and sounds as the model takes them: target sizes, patches and frames. The same rules as src/media and the 12B's processors."""

import math

import numpy as np

PATCH = 48
FRAME = 640
RATE = 16000
BUDGETS = (70, 140, 280, 560, 1120)


def target_size(width, height, budget=70):
    """(width, height) in pixels, multiples of 48 with at most `budget` patches."""
    area = budget * PATCH * PATCH
    f = math.sqrt(area / (height * width))
    h, w = math.floor(f * height / PATCH) * PATCH, math.floor(f * width / PATCH) * PATCH
    if h == 0 and w == 0:
        raise ValueError(f"{width} x {height} is too small")
    if h == 0:
        h, w = PATCH, min(math.floor(width / height) * PATCH, budget * PATCH)
    elif w == 0:
        h, w = min(math.floor(height / width) * PATCH, budget * PATCH), PATCH
    return w, h


def resized(rgb, width, height):
    """[h, w, 3] u8 to the given size, bicubic with antialiasing; as it is if it has that size."""
    if rgb.shape[:2] == (height, width):
        return rgb
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()


def patches(rgb):
    """[h, w, 3] u8, sizes multiples of 48 -> ([n, 6912] u8 row, column, channel; [n, 2] positions x, y), row by row."""
    rows, columns = rgb.shape[0] // PATCH, rgb.shape[1] // PATCH
    cut = rgb.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, PATCH * PATCH * 3)
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.ascontiguousarray(cut), np.stack([x, y], 1).astype(np.int16)


def prepared(rgb, budget=70):
    """A picture of any size to patches and positions."""
    w, h = target_size(rgb.shape[1], rgb.shape[0], budget)
    return patches(resized(rgb, w, h))


def soft_inputs(medium):
    """What the embedders take of a generator's picture or sound: ("image", [n, 6912] u8, [n, 2] i16) or ("audio", [n, 640] f32, None). Kept in the medium."""
    if "soft" not in medium:
        medium["soft"] = ("image", *prepared(medium["rgb"], medium["budget"])) if medium["kind"] == "image" else ("audio", frames(medium["samples"]), None)
    return medium["soft"]


def frames(samples):
    """Mono 16 kHz floats -> [n, 640] f32, the last frame padded with zeros."""
    n = -(-len(samples) // FRAME)
    out = np.zeros((n, FRAME), np.float32)
    out.reshape(-1)[: len(samples)] = samples
    return out


def png(rgb):
    """The bytes of a PNG file."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG")
    return out.getvalue()


def wav(samples):
    """The bytes of a 16-bit WAV file."""
    import io
    import wave

    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(RATE)
        f.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return out.getvalue()
