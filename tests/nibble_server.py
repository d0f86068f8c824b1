"""A server process for tests."""
import os
import pathlib
import re
import subprocess
import threading
import time

REPO = pathlib.Path(__file__).resolve().parents[1]
NIBBLE = os.environ.get("NIBBLE", str(REPO / "build/dev/src/app/nibble"))


class Server:
    """`nibble serve` on a free port, with the demo model unless told otherwise."""

    def __init__(self, *flags):
        began = time.monotonic()
        self.process = subprocess.Popen([NIBBLE, "serve", "--port", "0", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace")
        self.log = []
        self.port = None
        for line in self.process.stdout:
            self.log.append(line)
            found = re.search(r"listening on \S+:(\d+)", line)
            self.port = int(found[1]) if found else self.port
            if "ready to roll" in line:
                break
        assert self.port, "".join(self.log)
        self.seconds_to_ready = time.monotonic() - began
        # Keep the pipe from filling up.
        threading.Thread(target=lambda: self.log.extend(self.process.stdout), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self):
        import openai

        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, _strict_response_validation=True)

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=40)
