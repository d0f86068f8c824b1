"""Images, audio and video through the openai package, on random weights: what is counted, cached and refused."""

import base64
import http.server
import json
import threading

import openai
import pytest
from conftest import REPO, Server

MEDIA = REPO / "tests/data/model/media"
OVERRIDE = json.dumps(
    {
        "vision_config": {"model_type": "gemma4_unified_vision", "patch_size": 16, "pooling_kernel_size": 3, "model_patch_size": 48, "mm_embed_dim": 256, "mm_posemb_size": 1120, "output_proj_dims": 256, "num_soft_tokens": 70, "rms_norm_eps": 1e-6},
        "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 640, "audio_samples_per_token": 640, "hidden_size": 640, "output_proj_dims": 640, "rms_norm_eps": 1e-6},
    }
)


def data_url(name, kind="image/png"):
    return f"data:{kind};base64," + base64.b64encode((MEDIA / name).read_bytes()).decode()


def image(name, **extra):
    return {"type": "image_url", "image_url": {"url": data_url(name), **extra}}


def text(words):
    return {"type": "text", "text": words}


def sound(name):
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode((MEDIA / name).read_bytes()).decode(), "format": "wav"}}


@pytest.fixture(scope="module")
def seeing():
    s = Server("--load-format", "dummy", "--device", "cpu", "--random-seed", "1", "--json-model-override-args", OVERRIDE)
    yield s.client()
    assert s.stop() == 0


def ask(client, *parts, **extra):
    return client.chat.completions.create(model="default", messages=[{"role": "user", "content": list(parts)}], max_tokens=4, temperature=0, seed=1, **extra)


def details(reply):
    return reply.usage.prompt_tokens_details.model_dump()


def test_image_counts_and_same_image_again_comes_from_the_cache(seeing):
    first = ask(seeing, image("rings_640x480.png"), text("What is it?"))
    assert details(first)["image_tokens"] == 63
    again = ask(seeing, image("rings_640x480.png"), text("What is it?"))
    assert details(again)["cached_tokens"] >= 64
    assert again.choices[0].message.content == first.choices[0].message.content
    other = ask(seeing, image("frame_0.png"), text("What is it?"))
    assert details(other)["cached_tokens"] < 32


def test_two_images_and_sound_between_words(seeing):
    reply = ask(seeing, text("First"), image("checker_97x61.png"), text("then"), image("rings_300x200.jpg"), sound("sweep_0.5s.wav"), text("Compare."))
    assert details(reply)["image_tokens"] == 120
    assert details(reply)["audio_tokens"] == 13


def test_detail_and_the_request_set_the_budget(seeing):
    assert details(ask(seeing, image("rings_640x480.png", detail="high")))["image_tokens"] == 1064
    assert details(ask(seeing, image("rings_640x480.png"), extra_body={"image_soft_tokens": 280}))["image_tokens"] == 266


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": data_url("sweep_0.5s.wav")}},
        {"type": "audio_url", "audio_url": {"url": data_url("checker_97x61.png")}},
        {"type": "input_audio", "input_audio": {"data": "!!!", "format": "wav"}},
    ],
)
def test_bad_media_are_the_clients_fault(seeing, part):
    with pytest.raises(openai.BadRequestError) as error:
        ask(seeing, text("Look:"), part)
    assert error.value.param == "messages[0].content[1]"


def test_text_only_model_says_so():
    s = Server("--load-format", "dummy", "--device", "cpu", "--random-seed", "1", "--json-model-override-args", json.dumps({"vision_config": None, "audio_config": None}))
    with pytest.raises(openai.BadRequestError):
        ask(s.client(), image("checker_97x61.png"))
    assert s.stop() == 0


def test_video_frames_are_counted(seeing):
    film = (MEDIA / "formats/forty_frames.mp4").read_bytes()  # 64 x 48 pixels: 63 soft tokens a frame, 32 of the forty
    part = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + base64.b64encode(film).decode()}}
    reply = ask(seeing, part, text("What happens?"))
    assert details(reply)["video_tokens"] == 32 * 63
    # Before each frame stand its time, of two tokens at least, and the begin token, behind it the end token.
    assert reply.usage.prompt_tokens >= 32 * (63 + 2 + 2)


class Files(http.server.BaseHTTPRequestHandler):
    asked = []

    def do_GET(self):
        Files.asked.append(self.path)
        if self.path == "/to-localhost.png":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/rings_640x480.png")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write((MEDIA / self.path[1:]).read_bytes())

    def log_message(self, *args):
        pass


@pytest.fixture()
def files():
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    Files.asked.clear()
    yield f"http://127.0.0.1:{site.server_port}/"
    site.shutdown()


def test_urls_are_fetched_from_allowed_hosts_only(seeing, files):
    part = {"type": "image_url", "image_url": {"url": files + "rings_640x480.png"}}
    with pytest.raises(openai.BadRequestError, match="allowed-media-domains"):
        ask(seeing, part)
    assert not Files.asked
    fetching = Server("--load-format", "dummy", "--device", "cpu", "--random-seed", "1", "--json-model-override-args", OVERRIDE, "--allowed-media-domains", "127.0.0.1")
    try:
        client = fetching.client()
        assert details(ask(client, part))["image_tokens"] == 63
        for path in "to-localhost.png", "missing.png":
            with pytest.raises(openai.BadRequestError) as error:
                ask(client, {"type": "image_url", "image_url": {"url": files + path}})
            assert error.value.param == "messages[0].content[0]"
        assert Files.asked == ["/rings_640x480.png", "/to-localhost.png", "/missing.png"]
        with pytest.raises(openai.BadRequestError, match="not among"):
            ask(client, {"type": "image_url", "image_url": {"url": "http://example.com/x.png"}})
    finally:
        assert fetching.stop() == 0
