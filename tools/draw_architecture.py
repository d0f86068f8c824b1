#!/usr/bin/env python3
"""Draws docs/img/rooms.svg and docs/img/request.svg: the rooms and who may include whom, and the way of one request. Run again when either changes."""
import pathlib

OUT = pathlib.Path(__file__).resolve().parent.parent / "docs/img"
STYLE = """<style>
text { font: 14px system-ui, "DejaVu Sans", sans-serif; fill: #1c1d1b; } .name { font-weight: 600; } .small { font-size: 12px; fill: #5b5d57; }
rect { fill: #fbfbfa; stroke: #0b6e69; stroke-width: 1.5; } rect.lane { fill: #f1f1ee; stroke: none; } path { fill: none; stroke: #5b5d57; stroke-width: 1.5; marker-end: url(#tip); }
</style><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" style="fill:#5b5d57;stroke:none;marker-end:none"/></marker></defs>"""


def svg(name, width, height, title, parts):
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><title>{title}</title>{STYLE}<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>'
    (OUT / name).write_text(text + "\n".join(parts) + "</svg>\n")
    print("written:", OUT / name)


def box(x, y, w, name, small, h=52):
    return f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8"/><text class="name" x="{x + 12}" y="{y + 21}">{name}</text><text class="small" x="{x + 12}" y="{y + 40}">{small}</text>'


def line(*points):
    return '<path d="M' + " L".join(f"{x} {y}" for x, y in points) + '"/>'


def rooms():
    left = [("app", 20, 20, 700, "main and the commands; the only room that prints"), ("eval", 20, 110, 700, "GSM8K and tasks, grading, statistics; load generator, metrics, reports"),
            ("server", 20, 200, 700, "HTTP, OpenAI and native routes, server-sent events, metrics, the page"), ("engine", 20, 290, 340, "scheduler, pages, prefix cache, sampler"),
            ("quant", 380, 290, 340, "checkpoints of four and eight bits"), ("model", 380, 380, 340, "Gemma 4 written once; names, KV pages"),
            ("text", 20, 470, 220, "tokenizer, template, parser"), ("media", 260, 470, 220, "JPEG ... video to patches"), ("kernels", 500, 470, 220, "Backend: plain, fast, CUDA"),
            ("formats", 20, 560, 460, "safetensors, configs, the model cache"), ("base", 20, 650, 700, "errors, tensors, number formats, threads, files")]
    parts = [box(x, y, w, n, s) for n, x, y, w, s in left]
    parts += [line((370, 72), (370, 110)), line((370, 162), (370, 200)), line((190, 252), (190, 290)), line((550, 342), (550, 380)), line((360, 316), (370, 316), (370, 400), (380, 400)),
              line((610, 432), (610, 470)), line((130, 342), (130, 470)), line((300, 342), (300, 470)), line((430, 432), (430, 450), (490, 450), (490, 580), (480, 580)), line((130, 522), (130, 560)),
              line((370, 522), (370, 560)), line((610, 522), (610, 650)), line((250, 612), (250, 650))]
    svg("rooms.svg", 740, 720, "The rooms of nibble: each may include what its arrows lead to, and everything below that", parts)


def request():
    lanes = [("client", 20), ("io threads", 190), ("workers", 360), ("engine thread", 530), ("backend", 700)]
    parts = [f'<rect class="lane" x="{x}" y="10" width="150" height="560"/><text class="name" x="{x + 12}" y="34">{n}</text>' for n, x in lanes]
    steps = [(20, 50, "request", "JSON over HTTP"), (190, 80, "parse", "bad field: 400"), (360, 130, "frontend", "template to ids"), (530, 180, "queue", "full: 503"),
             (530, 250, "plan a step", "prefix, pages"), (700, 300, "forward", "one step for all"), (530, 350, "choose", "penalties, sampler"), (190, 400, "reply", "text, stops, calls"),
             (190, 470, "event", "one send a chunk"), (20, 510, "chunk", "text appears")]
    for x, y, name, small in steps:
        parts.append(box(x + 8, y, 134, name, small, 48))
    for (x0, y0, *_), (x1, y1, *_) in zip(steps, steps[1:]):
        if x0 == x1:
            parts.append(line((x0 + 75, y0 + 48), (x1 + 75, y1)))
        elif x1 > x0:
            parts.append(line((x0 + 142, y0 + 24), (x1 + 75, y0 + 24), (x1 + 75, y1)))
        else:
            parts.append(line((x0 + 75, y0 + 48), (x0 + 75, y1 + 24), (x1 + 142, y1 + 24)))
    parts.append(line((538, 374), (520, 374), (520, 274), (538, 274)))
    parts.append('<text class="small" x="452" y="322">next step</text>')
    svg("request.svg", 870, 580, "The way of one request, from JSON to the chunk that the client shows", parts)


rooms()
request()
