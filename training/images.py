"""Pictures of coloured shapes and digits, drawn here, with questions whose answers follow from what was drawn."""

import math

import numpy as np

from training.media import BUDGETS, target_size

KINDS = "circle square triangle star cross ring".split()
# A patch loses its brightness in the model's first norm, which leaves the hue: every colour has one of its own, also with the jitter of draw_shape. Brown is not dark orange here.
COLOURS = {"red": (214, 30, 34), "orange": (253, 170, 12), "yellow": (245, 222, 30), "green": (30, 160, 50), "cyan": (20, 200, 215), "blue": (30, 60, 215), "purple": (130, 30, 170), "pink": (250, 125, 185), "brown": (125, 58, 28)}
HELD_OUT_PAIRS = {("star", "purple"), ("ring", "orange"), ("cross", "brown")}
FONT = {0: "01110 10001 10011 10101 11001 10001 01110", 1: "00100 01100 00100 00100 00100 00100 01110", 2: "01110 10001 00001 00110 01000 10000 11111", 3: "11110 00001 00001 01110 00001 00001 11110",
        4: "00010 00110 01010 10010 11111 00010 00010", 5: "11111 10000 11110 00001 00001 10001 01110", 6: "01110 10000 10000 11110 10001 10001 01110", 7: "11111 00001 00010 00100 01000 01000 01000",
        8: "01110 10001 10001 01110 10001 10001 01110", 9: "01110 10001 10001 01111 00001 00001 01110"}
_noise = None


def noise(r, h, w):
    """Standard normal noise [h, w, 3] in f32: a window of one large sheet, made once."""
    global _noise
    if _noise is None:
        _noise = np.random.default_rng(1).standard_normal((1024, 1024, 3)).astype(np.float32)
    while h > _noise.shape[0] or w > _noise.shape[1]:
        _noise = np.tile(_noise, (2, 2, 1))
    y, x = r.randrange(_noise.shape[0] - h + 1), r.randrange(_noise.shape[1] - w + 1)
    return _noise[y : y + h, x : x + w]


def distance(kind, x, y, radius):
    """Signed distance (about) of the points to the outline, in pixels; negative inside."""
    if kind == "circle":
        return np.hypot(x, y) - radius * 0.95
    if kind == "ring":
        return np.abs(np.hypot(x, y) - radius * 0.75) - radius * 0.22
    if kind == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * 0.85
    if kind == "triangle":
        return np.maximum(np.maximum(y, 0.8660254 * x - 0.5 * y), -0.8660254 * x - 0.5 * y) - radius * 0.5
    if kind == "cross":
        a, b = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(a - radius, b - radius * 0.3), np.maximum(b - radius, a - radius * 0.3))
    # A star of five points: fold the plane into half a point, then one edge decides.
    angle = np.abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    length = np.hypot(x, y)
    px, py = length * np.cos(angle), length * np.sin(angle)
    inner = radius * 0.42
    ex, ey = inner * math.cos(math.pi / 5) - radius, inner * math.sin(math.pi / 5)
    return ((px - radius) * ey - py * ex) / math.hypot(ex, ey)


def background(r, h, w):
    level, tint = r.choice([r.uniform(195, 255), r.uniform(195, 255), r.uniform(0, 60), r.uniform(90, 170)]), [r.uniform(-10, 10) for _ in range(3)]
    base = np.array([min(255.0, max(0.0, level + t)) for t in tint], np.float32)
    kind = r.random()
    if kind < 0.8:
        out = np.empty((h, w, 3), np.float32)
        out[:] = base
        if kind < 0.3:
            slope, turned = r.uniform(-50, 50), r.random() < 0.5
            ramp = np.linspace(-0.5, 0.5, w if turned else h, dtype=np.float32) * np.float32(slope)
            out += ramp[None, :, None] if turned else ramp[:, None, None]
        return out
    out = noise(r, h, w) * np.float32(r.uniform(2, 12))
    out += base
    return out


def to_bytes(canvas):
    canvas += np.float32(0.5)
    np.clip(canvas, 0, 255, out=canvas)
    return canvas.astype(np.uint8)


def paint(canvas, mask_of, cx, cy, reach, colour):
    h, w, _ = canvas.shape
    x0, x1, y0, y1 = max(0, int(cx - reach - 1)), min(w, int(cx + reach + 2)), max(0, int(cy - reach - 1)), min(h, int(cy + reach + 2))
    x = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - cx)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - cy)
    alpha = np.clip(0.5 - mask_of(x, y), 0, 1)[..., None].astype(np.float32)
    part = canvas[y0:y1, x0:x1]
    part += alpha * (np.asarray(colour, np.float32) - part)


def draw_shape(r, canvas, item):
    jitter = [r.uniform(-8, 8) for _ in range(3)]
    colour = [min(255.0, max(0.0, c + j)) for c, j in zip(COLOURS[item["colour"]], jitter)]
    turn = r.uniform(-0.2, 0.2) if item["kind"] in ("square", "triangle", "star", "cross") else 0.0
    c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    paint(canvas, lambda x, y: distance(item["kind"], c * x + s * y, c * y - s * x, item["radius"]), item["cx"], item["cy"], item["radius"] * 1.05, colour)


def draw_digit(r, canvas, digit, colour):
    h, w, _ = canvas.shape
    rows = np.array([[c == "1" for c in row] for row in FONT[digit].split()], np.float32)
    cell = max(2, int(min(h / 7, w / 5) * r.uniform(0.35, 0.95)))
    glyph = np.kron(rows, np.ones((cell, cell), np.float32))[..., None]
    y, x = r.randrange(h - glyph.shape[0] + 1), r.randrange(w - glyph.shape[1] + 1)
    part = canvas[y : y + glyph.shape[0], x : x + glyph.shape[1]]
    part += glyph * (np.asarray(COLOURS[colour], np.float32) - part)


def canvas_of(r):
    """An empty picture and the budget of its soft tokens: of a size that the processor leaves alone, or smaller, so that it is resized."""
    budget = r.choices(BUDGETS[:3], [0.86, 0.10, 0.04])[0]
    ratio = 2 ** r.uniform(-1, 1)
    side = 1000
    w, h = target_size(int(side * ratio), side, budget)
    if r.random() < 0.4:
        scale = r.uniform(0.3, 0.9)
        w, h = max(48, int(w * scale)), max(48, int(h * scale))
    return background(r, h, w), budget


def scene(r, count=None, pairs="train", kinds=KINDS, colours=None):
    """({"rgb", "budget"}, items). Items: kind, colour, cx, cy, radius in pixels. pairs: train has none of the held-out pairs, held at least one."""
    canvas, budget = canvas_of(r)
    h, w, _ = canvas.shape
    short = min(h, w)
    items = []
    wanted = count or r.choices([1, 2, 3, 4, 5, 6], [0.26, 0.25, 0.2, 0.13, 0.09, 0.07])[0]
    for i in range(wanted):
        while True:
            kind, colour = r.choice(kinds), r.choice(colours or list(COLOURS))
            if pairs == "held" and i == 0:
                kind, colour = r.choice(sorted(HELD_OUT_PAIRS))
            if pairs != "train" or (kind, colour) not in HELD_OUT_PAIRS:
                break
        for _ in range(60):
            radius = short * r.uniform(0.08, 0.19 if wanted > 3 else 0.23)
            cx, cy = r.uniform(radius, w - radius), r.uniform(radius, h - radius)
            if all(math.hypot(cx - o["cx"], cy - o["cy"]) > (radius + o["radius"]) * 0.98 for o in items):
                items.append(dict(kind=kind, colour=colour, cx=cx, cy=cy, radius=radius))
                break
    for item in items:
        draw_shape(r, canvas, item)
    return dict(kind="image", rgb=to_bytes(canvas), budget=budget), items


def digit_scene(r):
    canvas, budget = canvas_of(r)
    digit, colour = r.randrange(10), r.choice(list(COLOURS))
    draw_digit(r, canvas, digit, colour)
    return dict(kind="image", rgb=to_bytes(canvas), budget=budget), digit, colour


# ---- what can be asked ----

def named(item):
    return f"{'an' if item['colour'] == 'orange' else 'a'} {item['colour']} {item['kind']}"


def counted(n, what):
    return f"There is 1 {what}." if n == 1 else f"There are {n or 'no'} {what}{'es' if what.endswith('s') and not what.endswith('es') else 's'}."


def listed(items):
    """What is there, from top to bottom; None if the order is not clear."""
    order = sorted(items, key=lambda i: i["cy"])
    if any(b["cy"] - a["cy"] < 0.5 * min(a["radius"], b["radius"]) for a, b in zip(order, order[1:])):
        return None
    names = [named(i) for i in order]
    return "I see " + (names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]) + "."


def plural(kind):
    return kind + ("es" if kind == "cross" else "s")


def question(r, items):
    """(question, answer) about a scene."""
    kinds, colours = [i["kind"] for i in items], [i["colour"] for i in items]
    item = r.choice(items)
    which = r.random()
    the = f"{r.choice(['colour', 'colour', 'color'])}"
    if which < 0.26:
        if kinds.count(item["kind"]) == 1:
            return r.choice([f"What {the} is the {item['kind']}?", f"Which {the} is the {item['kind']}?", f"What {the} has the {item['kind']}?", f"Tell me the {the} of the {item['kind']}."]), f"The {item['kind']} is {item['colour']}."
    elif which < 0.46:
        if colours.count(item["colour"]) == 1:
            return r.choice([f"Which shape is {item['colour']}?", f"What shape is {item['colour']}?", f"What is the {item['colour']} shape?", f"What is {item['colour']}?"]), f"The {item['colour']} shape is a {item['kind']}."
    elif which < 0.60:
        return r.choice(["How many shapes are there?", "How many shapes do you see?", "Count the shapes.", "How many shapes are in the picture?"]), counted(len(items), "shape")
    elif which < 0.70:
        kind = item["kind"] if r.random() < 0.75 else r.choice(KINDS)
        return r.choice([f"How many {plural(kind)} are there?", f"How many {plural(kind)} do you see?", f"Count the {plural(kind)}."]), counted(kinds.count(kind), kind)
    elif which < 0.78:
        colour = item["colour"] if r.random() < 0.75 else r.choice(list(COLOURS))
        return r.choice([f"How many {colour} shapes are there?", f"How many shapes are {colour}?", f"Count the {colour} shapes."]), counted(colours.count(colour), colour + " shape")
    elif which < 0.86 and len(items) == 2:
        a, b = items if item is items[0] else items[::-1]
        dx, dy = b["cx"] - a["cx"], b["cy"] - a["cy"]
        if (a["kind"], a["colour"]) != (b["kind"], b["colour"]) and abs(abs(dx) - abs(dy)) > 0.5 * min(a["radius"], b["radius"]):
            side = ("right of" if dx > 0 else "left of") if abs(dx) > abs(dy) else ("below" if dy > 0 else "above")
            return f"What is {side} the {a['colour']} {a['kind']}?", f"{named(b).capitalize()}."
    text = listed(items)
    if text:
        return r.choice(["What do you see?", "Describe the picture.", "What is in the picture?", "What is in this picture?", "Describe the image.", "What does the picture show?"]), text
    return "How many shapes are there?", counted(len(items), "shape")


def digit_question(r, digit, colour):
    return r.choice([(r.choice(["Which digit is it?", "What digit do you see?", "Which digit is shown?", "Read the digit."]), f"The digit is {digit}."), (r.choice(["Which digit is it?", "Which number is it?"]), f"The digit is {digit}."),
                     (r.choice(["What do you see?", "Describe the picture.", "What is in the picture?"]), f"I see the digit {digit} in {colour}."), ("What colour is the digit?", f"The digit is {colour}.")])


def make_image_sample(r, recent=None):
    """One sample. Drawing is the slow part: with a list `recent`, half of the scenes are drawn before and asked about anew."""
    kind = r.random()
    if kind < 0.1:
        (a, one), (b, two) = scene(r, r.randint(1, 4)), scene(r, r.randint(1, 4))
        shape = r.choice(one + two)["kind"]
        m, n = (sum(i["kind"] == shape for i in items) for items in (one, two))
        more = "Both have the same number." if m == n else "The first picture." if m > n else "The second picture."
        at = r.randrange(2)
        q, answer = r.choice([(f"Which picture has more {plural(shape)}?", more), (f"How many shapes are in the {['first', 'second'][at]} picture?", counted(len([one, two][at]), "shape")),
                              ("Which picture has more shapes?", "Both have the same number." if len(one) == len(two) else "The first picture." if len(one) > len(two) else "The second picture.")])
        return dict(messages=[user(r, [a, b], q)], media=[a, b], reply=answer)
    items = None
    if kind < 0.28:
        picture, *digit = digit_scene(r)
        asked = [digit_question(r, *digit) for _ in range(r.choice([1, 1, 2]))]
    else:
        if recent and r.random() < 0.4:
            picture, items = r.choice(recent)
        else:
            picture, items = scene(r)
            if recent is not None:
                recent.append((picture, items))
                del recent[:-64]
        asked = [question(r, items) for _ in range(r.choice([1, 1, 2, 4, 6, 8]))]  # a picture takes 70 tokens and more that teach nothing by themselves
    messages = [user(r, [picture], asked[0][0])]
    for (_, answer), (q, _) in zip(asked, asked[1:]):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": q}]
    thought = listed(items) if items and r.random() < 0.05 else None
    reply = asked[-1][1] if not thought else f"<|channel>thought\n{thought}\n<channel|>{asked[-1][1]}"
    return dict(messages=messages, media=[picture], reply=reply, thinking=bool(thought), all_turns=True)


def user(r, media, text):
    parts = [{"type": m["kind"]} for m in media]
    words = [{"type": "text", "text": text}]
    return {"role": "user", "content": parts + words if r.random() < 0.8 else words + parts}
