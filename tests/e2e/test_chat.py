import subprocess

from conftest import NIBBLE


def test_a_piped_conversation_remembers_and_shows_no_colours():
    lines = "My name is Mia.\nWhat is my name?\n/help\n/nothing\n/reset\nWho are you?\n"
    r = subprocess.run([NIBBLE, "chat", "demo", "--temperature", "0"], input=lines, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    assert "Your name is Mia." in r.stdout and "demo model of nibble" in r.stdout and "/quit" in r.stdout and "unknown command" in r.stdout
    assert "\033" not in r.stdout
