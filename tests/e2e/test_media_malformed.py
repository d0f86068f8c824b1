"""Three hundred media files broken in many ways: each is the client's fault, the server stays as it was, and nothing is left behind in it."""

import base64
import os
import pathlib
import random

import httpx
import pytest
from conftest import REPO, Server

MEDIA = REPO / "tests/data/model/media"
MIME = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp", "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "mp4": "video/mp4"}


def real_files():
    """{ending: bytes}: pictures, sounds and a video of the goldens."""
    files = {"png": "rings_640x480.png", "jpg": "rings_300x200.jpg", "wav": "sweep_0.5s.wav", "gif": "formats/few_colors.gif", "webp": "formats/want_lossy.webp", "flac": "formats/sweep_0.5s.flac", "mp4": "formats/forty_frames.mp4"}
    return {ending: (MEDIA / name).read_bytes() for ending, name in files.items()}


def cut(r, data):  # of a sound file that is cut in its samples the rest is a sound
    return data[: r.randrange(0, 44 if data[:4] in (b"RIFF", b"fLaC") else len(data) // 2)]


def other_magic(r, data):
    return r.randbytes(16) + data[16:]


def noise(r, data):  # the name is right, the rest is not
    return data[: r.randrange(4, 12)] + r.randbytes(len(data) // 4)


def zeros(r, data):
    at = r.randrange(0, 24)
    return data[:at] + bytes(len(data) - at)


def flipped(r, data):
    out = bytearray(data)
    for _ in range(r.randrange(1, 40)):
        out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    return bytes(out)


CLIENT = httpx.Client(timeout=60)  # one connection: a new client takes longer than most of these requests


def ask(server, ending, data):
    kind = MIME[ending].split("/")[0] + "_url"
    part = {"type": kind, kind: {"url": f"data:{MIME[ending]};base64," + base64.b64encode(data).decode()}}
    body = {"model": "default", "messages": [{"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}], "max_tokens": 1, "temperature": 0}
    return CLIENT.post(server.url + "/v1/chat/completions", json=body)


def held(server):
    """Open files and resident bytes of the server."""
    pid = server.process.pid
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return len(os.listdir(f"/proc/{pid}/fd")), int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def broken_and_server():
    s = Server("--device", "cpu")
    yield real_files(), s
    assert s.stop() == 0


def test_three_hundred_broken_files_are_each_refused(broken_and_server):
    files, server = broken_and_server
    for ending, data in files.items():
        assert ask(server, ending, data).status_code == 200, ending
    before = ask(server, "png", files["png"]).json()["choices"]
    r = random.Random("malformed media")
    held_then = None
    for i in range(300):
        ending = sorted(files)[i % len(files)]
        how = (cut, other_magic, noise, zeros)[i // len(files) % 4]
        got = ask(server, ending, how(r, files[ending]))
        assert got.status_code == 400, (i, ending, how.__name__, got.status_code, got.text[:300])
        error = got.json()["error"]
        assert error["param"] == "messages[0].content[1]" and error["message"] and "\n" not in error["message"], error
        if i == 99:
            held_then = held(server)
    files_now, bytes_now = held(server)
    assert files_now <= held_then[0] + 2 and bytes_now < held_then[1] + (24 << 20), (held_then, files_now, bytes_now)
    assert ask(server, "png", files["png"]).json()["choices"] == before


def test_flipped_bits_are_refused_or_read_and_never_more(broken_and_server):
    files, server = broken_and_server
    r = random.Random("flipped media")
    for i in range(70):
        ending = sorted(files)[i % len(files)]
        got = ask(server, ending, flipped(r, files[ending]))
        assert got.status_code in (200, 400), (i, ending, got.status_code, got.text[:300])
