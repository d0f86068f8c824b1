import json
import os
import pty
import re
import select
import signal
import subprocess
import time

from conftest import NIBBLE, REPO


def test_a_piped_conversation_remembers_and_shows_no_colours():
    lines = "My name is Mia.\nWhat is my name?\n/help\n/nothing\n/reset\nWho are you?\n"
    r = subprocess.run([NIBBLE, "chat", "demo", "--temperature", "0"], input=lines, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    assert "Your name is Mia." in r.stdout and "demo model of nibble" in r.stdout and "/quit" in r.stdout and "unknown command" in r.stdout
    assert "\033" not in r.stdout


class Terminal:
    """`nibble chat demo` on a terminal of its own, driven as by a person."""

    def __init__(self, *flags, **environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", "LANG": "C.UTF-8", **environment})
            os.execv(NIBBLE, [NIBBLE, "chat", "demo", "--temperature", "0", *flags])
        self.seen = ""
        self.wait("/help lists the commands")
        self.wait("> ")

    def wait(self, text, seconds=30):
        """What came up to `text`, which is used up with it."""
        until = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < until, f"waited for {text!r}, saw {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"the program ended; saw {self.seen!r}") from None
        before, self.seen = self.seen.split(text, 1)
        return before

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def say(self, line):
        """Types a line; what was shown up to the next prompt."""
        self.type(line + "\r")
        self.wait("\n")
        shown = self.wait("> " if line.startswith("/") else "]\x1b[22m")
        if not line.startswith("/"):
            self.wait("> ")
        return shown

    def end(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"did not end; saw {self.seen!r}")


def test_a_terminal_shows_the_rate_and_edits_utf8():
    t = Terminal()
    shown = t.say("Who are yöu?\b\b\bou?")
    assert "demo model" in shown and re.search(r"\[\d+ tokens, \d+ tok/s, first after \d+ ms$", shown)
    t.type("\x04")
    assert t.end() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program():
    t = Terminal("--max-tokens", "8000")
    t.type("Count from 1 to 2000.\r")
    # Until something of the answer is there, or at once where the answer is short.
    t.wait("\n")
    t.type("\x03")
    t.wait("]\x1b[22m")
    t.wait("> ")
    t.type("half a line\x03")
    t.wait("^C")
    t.wait("> ")
    assert "demo model" in t.say("Who are you?")
    t.type("\x03\x03/quit\r")
    assert t.end() == 0


def test_commands_think_system_and_save(tmp_path):
    t = Terminal()
    assert "thinking is off" in t.say("/think")
    assert "thinking is on" in t.say("/think on")
    assert "wants on or off" in t.say("/think maybe")
    thought = t.say("What is 345 + 88?")
    assert "\x1b[2m" in thought and "433" in thought
    t.say("/think off")
    assert "did you mean /save?" in t.say("/svae x")
    assert "wants a file" in t.say("/save")
    saved, text = tmp_path / "chat.json", tmp_path / "chat.md"
    assert "2 messages" in t.say(f"/save {saved}") and "2 messages" in t.say(f"/save {text}")
    messages = json.loads(saved.read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] and "433" in messages[1]["content"]
    assert text.read_text().startswith("## user\n\nWhat is 345 + 88?\n\n## assistant\n\n")
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    assert "exists" in t.say(f"/save {other}") and other.read_text() == "mine"
    assert "no system message" in t.say("/system")
    t.say("/system Answer in one word.")
    assert "Answer in one word." in t.say("/system")
    assert "1 messages" in t.say(f"/save {saved}")  # its own file may be written again
    assert "nothing.png: " in t.say("/image nothing.png")
    t.type("/quit\r")
    assert t.end() == 0


def test_a_picture_and_a_sound_go_with_the_next_message():
    samples = REPO / "models/demo/samples"
    rows = [json.loads(line) for line in (samples / "expected.jsonl").read_text().splitlines()]
    for command, ending in (("/image", ".png"), ("/audio", ".wav")):
        row = next(r for r in rows if r["file"].endswith(ending))
        t = Terminal()
        assert "soft tokens" in t.say(f"{command} {samples / row['file']}")
        assert row["expected"] in t.say(row["question"])
        t.type("/quit\r")
        assert t.end() == 0


def test_the_answer_is_plain_where_colours_are_not_wanted():
    t = Terminal(NO_COLOR="1")
    t.type("Who are you?\r")
    t.wait("demo model")
    shown = t.wait("\n")
    assert "\x1b[2m" not in shown and "tok/s" not in shown
    t.type("/quit\r")
    assert t.end() == 0
