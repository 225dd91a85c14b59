"""Starts the example server on a model, for tests that talk to it as its clients do."""

import os
import re
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / os.environ.get("LARDER_SERVER", "build/server")
CHAT = ROOT / "tests/data/chat"
SMOLLM2 = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"


class Server:
    """A running server. `client` is OpenAI's, `name` the model's."""

    def __init__(self, model, *flags):
        command = [SERVER, "-listen", "127.0.0.1:0", *flags, model]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.name = Path(model).name
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"address=(\S+)", line):
                self.url = f"http://{found[1]}"
                break
        else:
            raise RuntimeError(f"the server did not start: {self.lines}")
        threading.Thread(target=self._read, daemon=True).start()
        self.client = openai.OpenAI(
            base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=60
        )

    def _read(self):
        self.lines.extend(self.process.stderr)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return response.read().decode()

    def metric(self, name):
        return float(re.search(rf"^larder_{name} (\S+)$", self.get("/metrics"), re.M)[1])

    def wait_until_idle(self):
        """Waits until no request is left and no token slot is used."""
        names = ["requests_running", "requests_waiting", "used_slots"]
        deadline = time.monotonic() + 30
        while any(self.metric(name) for name in names):
            assert time.monotonic() < deadline, self.get("/metrics")
            time.sleep(0.01)

    def stop(self):
        """Asks for a graceful stop and returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def server():
    """A server of the tiny chat model, whose answers mean nothing."""
    running = Server(CHAT)
    yield running
    assert running.stop() == 0, running.lines


@pytest.fixture(scope="session")
def smollm2():
    """A server of a real model."""
    if not SMOLLM2.exists():
        pytest.skip(f"{SMOLLM2.name} is not there: scripts/fetch_model.sh fetches it")
    running = Server(SMOLLM2, "-max-sequence-tokens", "1024", "-max-sequences", "16")
    yield running
    assert running.stop() == 0, running.lines
