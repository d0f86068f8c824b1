"""The chat page in headless Chromium. NIBBLE_SCREENSHOTS=DIR also writes the pictures of the documents."""

import json
import os
import pathlib
import shutil

import httpx
import pytest
from conftest import REPO

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
PICTURES = os.environ.get("NIBBLE_SCREENSHOTS")
TIMER = json.dumps([{"name": "set_timer", "description": "Starts a timer", "parameters": {"type": "object", "properties": {"minutes": {"type": "integer", "description": "how long"}}, "required": ["minutes"]}}])
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield b
        b.close()


@pytest.fixture
def page(browser, server):
    """A fresh browser profile; fails the test on any script error or any request to elsewhere."""
    context = browser.new_context(viewport={"width": 1100, "height": 760})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(8000)
    page.problems = []
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("console", lambda m: m.type == "error" and "Failed to load resource" not in m.text and page.problems.append(m.text))
    page.on("request", lambda r: r.url.startswith((server.url, "data:", "blob:")) or page.problems.append(r.url))
    page.goto(server.url)
    page.wait_for_selector("#prompts button")
    set_up(page, temperature=0)
    yield page
    assert page.problems == []
    context.close()


def set_up(page, **settings):
    page.evaluate("s => { Object.assign(settings, s); saveSettings(); showSettings(); }", settings)


def ask(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def finished(page):
    page.wait_for_function("() => !running && chat.messages.length > 0")


def picture(page, name):
    if PICTURES:
        pathlib.Path(PICTURES).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{PICTURES}/{name}.png")


def test_root_is_a_page_for_browsers_and_a_line_for_scripts(server):
    page = httpx.get(server.url, headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html") and "nonce-" in page.headers["content-security-policy"] and "{{nonce}}" not in page.text
    assert httpx.get(server.url).headers["content-type"].startswith("text/plain")
    assert httpx.head(server.url, headers={"accept": "text/html"}).status_code == 200


def test_first_chat_streams_and_survives_a_reload(page):
    picture(page, "page-empty")
    ask(page, "Tom has 23 apples. Tom buys 48 more apples. How many apples does Tom have now?")
    finished(page)
    answer = page.locator(".message.model .text").inner_text()
    assert "71" in answer and "tokens" in page.locator(".stats").inner_text()  # a rate only where the answer did not come at once
    assert "/ 8192" in page.locator("#context").inner_text()
    picture(page, "page-chat")
    page.reload()
    page.wait_for_selector(".message.model .text")
    assert page.locator(".message.model .text").inner_text() == answer
    ask(page, "What is 12 + 30?")
    finished(page)
    assert page.locator(".message").count() == 4
    page.get_by_role("button", name="Regenerate").last.click()
    finished(page)
    assert page.locator(".message").count() == 4


def test_thinking_folds_when_it_ends(page):
    page.get_by_role("button", name="Think").click()
    ask(page, "What is 345 + 88?")
    finished(page)
    fold = page.locator("details.think")
    assert fold.is_visible() and not fold.evaluate("e => e.open") and "Thought" in fold.inner_text()
    fold.locator("summary").click()
    assert fold.locator("div").inner_text().strip() and "433" in page.locator(".message.model .text").inner_text()
    picture(page, "page-thinking")


def test_a_tool_call_is_shown_and_its_result_goes_back(page):
    set_up(page, tools=TIMER)
    ask(page, "Set a timer for 5 minutes.")
    finished(page)
    call = page.locator("details.call")
    assert "set_timer" in call.inner_text() and '"minutes": 5' in call.inner_text()
    picture(page, "page-tool")
    sent = []
    page.on("request", lambda r: r.method == "POST" and sent.append(r.post_data_json))
    call.get_by_label("Result of set_timer").fill('{"status": "ok"}')
    call.get_by_role("button", name="Send the result").click()
    finished(page)
    assert [m["role"] for m in sent[0]["messages"]] == ["user", "assistant", "tool"] and sent[0]["messages"][2]["content"] == '{"status": "ok"}'
    assert page.locator(".message.model").count() == 2


def canned(page, text, capture=None, delta="content"):
    """Answers chat requests in the server's place."""

    def answer(route):
        if capture is not None:
            capture.append(route.request.post_data_json)
        usage = {"prompt_tokens": 9, "completion_tokens": 40, "prompt_tokens_details": {"cached_tokens": 0}}
        chunks = [{"choices": [{"index": 0, "delta": {delta: text}, "finish_reason": None}], "usage": usage}, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}]
        route.fulfill(status=200, content_type="text/event-stream", body="".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n")

    page.route("**/v1/chat/completions", answer)


def test_images_are_attached_pasted_and_sent(page):
    page.route("**/model_info", lambda r: r.fulfill(json={"has_image_understanding": True, "has_audio_understanding": True, "model_path": "demo"}))
    page.evaluate("connect()")
    page.wait_for_selector("#attach:visible")
    import base64

    dot = page.evaluate("""() => { const canvas = document.createElement('canvas'), pen = canvas.getContext('2d'); canvas.width = 160; canvas.height = 120; pen.fillStyle = '#e8e4d8';
        pen.fillRect(0, 0, 160, 120); pen.fillStyle = '#c22'; pen.arc(80, 60, 30, 0, 7); pen.fill(); return canvas.toDataURL('image/png').split(',')[1]; }""")
    page.locator("#files").set_input_files([{"name": "dot.png", "mimeType": "image/png", "buffer": base64.b64decode(dot)}])
    page.wait_for_selector("#tray img")
    page.evaluate(
        """data => { const t = new DataTransfer(); t.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], 'pasted.png', {type: 'image/png'}));
                     document.getElementById('input').dispatchEvent(new ClipboardEvent('paste', {clipboardData: t, bubbles: true, cancelable: true})); }""",
        PIXEL,
    )
    page.wait_for_function("() => tray.length === 2")
    wav = page.evaluate("""async () => { const n = 4410, v = new DataView(new ArrayBuffer(44 + 2 * n)); const t = (a, s) => [...s].forEach((c, i) => v.setUint8(a + i, c.charCodeAt(0)));
        t(0, 'RIFF'); v.setUint32(4, 36 + 2 * n, true); t(8, 'WAVEfmt '); v.setUint32(16, 16, true); v.setUint16(20, 1, true); v.setUint16(22, 1, true); v.setUint32(24, 44100, true);
        v.setUint32(28, 88200, true); v.setUint16(32, 2, true); v.setUint16(34, 16, true); t(36, 'data'); v.setUint32(40, 2 * n, true);
        await attach([new File([v], 'tone.wav', {type: 'audio/wav'})]); return tray[2].url.slice(0, 22); }""")
    assert wav == "data:audio/wav;base64,"
    picture(page, "page-attach")
    page.get_by_role("button", name="Remove pasted.png").click()
    sent = []
    canned(page, "A **red** dot.", sent)
    ask(page, "What is this?")
    finished(page)
    kinds = [part["type"] for part in sent[0]["messages"][0]["content"]]
    assert kinds == ["image_url", "input_audio", "text"] and sent[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert page.locator(".message.user img").count() == 1


def test_a_picture_is_seen_by_the_model(page):
    rows = [json.loads(line) for line in (REPO / "models/demo/samples/expected.jsonl").read_text().splitlines()]
    row = next(r for r in rows if r["file"].endswith(".png"))
    page.locator("#files").set_input_files(REPO / "models/demo/samples" / row["file"])
    page.wait_for_selector("#tray img")
    ask(page, row["question"])
    finished(page)
    assert page.locator(".message.model .text").inner_text() == row["expected"]
    picture(page, "page-image")


def test_stop_ends_the_reply_and_keeps_what_came(page):
    page.route("**/v1/chat/completions", lambda r: r.continue_(post_data=json.dumps(r.request.post_data_json | {"ignore_eos": True})))
    ask(page, "How can you help me?")
    # Pressed in the page itself: the demo model would be past its answer before a press from here came.
    page.wait_for_function("() => { const stop = running && chat.messages[1].content.length > 20 && document.querySelector('button[aria-label^=Stop]'); if (stop) stop.click(); return Boolean(stop); }")
    finished(page)
    assert "stopped" in page.locator(".stats").inner_text()
    picture(page, "page-stopped")
    assert page.get_by_role("button", name="Send", exact=True).is_visible()


def test_acceptance_is_shown_while_the_answer_comes_and_after_a_short_one(page):
    told = {"speculative_algorithm": "NEXTN", "internal_states": [{"avg_spec_accept_length": 3.5}]}
    page.route("**/server_info", lambda r: r.fulfill(json=told))
    page.route("**/v1/chat/completions", lambda r: r.continue_(post_data=json.dumps(r.request.post_data_json | {"ignore_eos": True})))
    ask(page, "Tell me everything.")
    page.wait_for_function("() => running && [...document.querySelectorAll('.stats')].some(e => e.textContent.includes('3.50 accepted a step'))")
    page.get_by_role("button", name="Stop").click()
    finished(page)
    page.unroute("**/v1/chat/completions")
    told["internal_states"][0]["avg_spec_accept_length"] = 2.25
    canned(page, "Yes.")
    ask(page, "Short?")
    page.wait_for_function("() => !running && document.querySelectorAll('.stats')[1]?.textContent.includes('2.25 accepted a step')")


def test_model_text_is_never_markup(page):
    canned(page, "# Title\n\n<img src=x onerror=alert(1)> <script>alert(2)</script> [x](javascript:alert(3)) [ok](https://example.org)\n\n- a\n  - b\n1. c\n\n| h | i |\n|---|---|\n| 1 | 2 |\n\n```py\nprint(1 < 2)\n```\n\n**bold** *it* `code` 2*3*4 snake_case_name ~~no~~")
    ask(page, "hi")
    finished(page)
    text = page.locator(".message.model .text")
    assert text.locator("img, script").count() == 0 and "<script>alert(2)" in text.inner_text()
    assert text.locator("a").count() == 1 and text.locator("strong").inner_text() == "bold" and text.locator("em").inner_text() == "it" and text.locator("del").count() == 1
    assert text.locator("li li").inner_text() == "b" and text.locator("td").count() == 2 and text.locator("h2").inner_text() == "Title"
    assert "print(1 < 2)" == text.locator("pre").inner_text() and "2*3*4 snake_case_name" in text.inner_text()
    picture(page, "page-markdown")


def test_errors_are_told_and_can_be_tried_again(page):
    set_up(page, top_k=0)
    ask(page, "Hello")
    finished(page)
    assert "top_k" in page.locator(".failure").inner_text()
    set_up(page, top_k="")
    page.get_by_role("button", name="Try again").click()
    finished(page)
    assert page.locator(".failure").count() == 0 and page.locator(".message.model .text").inner_text()


def test_a_key_opens_a_guarded_server(browser):
    from conftest import Server

    guarded = Server("--api-key", "sesame")
    page = browser.new_page()
    page.goto(guarded.url)
    page.wait_for_selector("#notice:visible")
    assert "API key" in page.locator("#notice").inner_text()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill("sesame")
    page.keyboard.press("Tab")
    page.wait_for_selector("#notice", state="hidden")
    page.close()
    assert guarded.stop() == 0


def test_keyboard_alone_is_enough(page):
    page.keyboard.type("What is 2 + 3?")
    page.keyboard.press("Enter")
    finished(page)
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Edit message"
    page.keyboard.press("Escape")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"))
    assert {"Message", "Send", "Think", "Settings", "Dark or light", "Regenerate", "Edit", "Copy"} <= reached
    page.keyboard.press("Alt+n")
    assert page.locator(".message").count() == 0


CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); const s = c.startsWith('color(srgb') ? 255 : 1; return [m[0] * s, m[1] * s, m[2] * s, m[3] ?? 1]; };
  const light = c => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); };
  const under = e => { const layers = []; for (; e; e = e.parentElement) { const b = parse(getComputedStyle(e).backgroundColor); layers.push(b); if (b[3] === 1) break; }
    return layers.reverse().reduce((a, b) => a.map((v, i) => v * (1 - b[3]) + b[i] * b[3]), [255, 255, 255]); };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!e.checkVisibility() || e.matches(':disabled, .skip') || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.tagName === 'STYLE' || e.tagName === 'SCRIPT') continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(under(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(e.tagName + '#' + e.id + '.' + e.className + ' ' + ratio.toFixed(2));
  }
  return bad;
}"""
UNNAMED = """() => [...document.querySelectorAll('button, input, textarea, select, img, audio')].filter(e => e.checkVisibility() &&
  !(e.getAttribute('aria-label') || e.alt || (e.labels && e.labels.length) || e.textContent.trim())).map(e => e.outerHTML.slice(0, 90))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_contrast_and_controls_have_names(page, theme):
    set_up(page, theme=theme, think=True)
    page.evaluate("applyTheme()")
    ask(page, "What is 345 + 88?")
    finished(page)
    page.get_by_role("button", name="Conversations").click() if not page.locator("#side").is_visible() else None
    assert page.evaluate(CONTRAST) == [] and page.evaluate(UNNAMED) == []
    if theme == "dark":
        picture(page, "page-dark")
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate(CONTRAST) == [] and page.evaluate(UNNAMED) == []
    picture(page, f"page-settings-{theme}")


def test_a_phone_shows_everything_in_its_width(page):
    page.set_viewport_size({"width": 360, "height": 700})
    page.reload()
    page.wait_for_selector("#prompts button")
    ask(page, "What is 345 + 88?")
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.get_by_role("button", name="Send", exact=True).is_visible()
    picture(page, "page-phone")
    page.get_by_role("button", name="Conversations").click()
    assert page.locator("#chats li").count() == 1
    page.mouse.click(350, 300)
    assert not page.locator("#side").is_visible()
