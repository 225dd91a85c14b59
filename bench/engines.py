"""The engines under measurement: processes that answer cases, one at a time; the others are stopped meanwhile."""
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, Queue

ROOT = Path(__file__).resolve().parent.parent
# One sequence has 4096 tokens and a few to decode; 32 have few tokens each.
SEQUENCE_TOKENS, TOTAL_TOKENS, SEQUENCES = 4224, 8192, 32
LOAD_TIMEOUT, CASE_TIMEOUT = 900, 1800


class Failed(Exception):
    """Why there is no number."""


def larder_command(model, threads):
    sizes = {
        "--max-sequence-tokens": SEQUENCE_TOKENS,
        "--total-tokens": TOTAL_TOKENS,
        "--max-sequences": SEQUENCES,
        "--max-logits-rows": SEQUENCES,
        "--threads": threads,
    }
    flags = [word for name, value in sizes.items() for word in (name, str(value))]
    return [str(ROOT / "target/release/larder"), "bench", str(model), "--stdin", *flags]


def peer_command(script):
    def command(model, threads):
        flags = ["--threads", str(threads), "--max-sequence-tokens", str(SEQUENCE_TOKENS)]
        return [sys.executable, str(ROOT / "bench" / script), str(model), *flags]

    return command


COMMANDS = {
    "larder": larder_command,
    "llama.cpp": peer_command("peer_llama_cpp.py"),
    "OpenVINO": peer_command("peer_openvino.py"),
}


class Engine:
    """A process that has loaded a model."""

    def __init__(self, name, command, log, environment=None):
        """What the process prints besides answers goes to the file `log`."""
        self.name = name
        self.log = log
        self.failure = None
        self.heading = {}
        self.peak_bytes = None
        self.answers = Queue()
        try:
            with open(log, "w") as file:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=environment,
                    text=True,
                )
        except OSError as error:
            self.process = None
            self.failure = f"cannot be started: {error}"
            return
        threading.Thread(target=self.read, daemon=True).start()
        try:
            self.heading = self.next_answer(LOAD_TIMEOUT)
            self.peak_bytes = peak_bytes(self.process.pid)
            self.signal(signal.SIGSTOP)
        except Failed as error:
            self.failure = f"cannot load the model: {error}"

    def read(self):
        """Takes answers in as they come, on a thread of its own."""
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def next_answer(self, timeout):
        try:
            line = self.answers.get(timeout=timeout)
        except Empty:
            self.end()
            raise Failed(f"no answer in {timeout} s") from None
        if line is None:
            status = self.process.wait()
            if status < 0:
                raise Failed(f"ended by {signal.Signals(-status).name}")
            raise Failed(last_line(self.log.read_text()) or f"ended with status {status}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def signal(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)

    def ask(self, case):
        """Runs a case once while the other engines stand still."""
        if self.failure:
            raise Failed(self.failure)
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.write(f"{case}\n")
            self.process.stdin.flush()
            return self.next_answer(CASE_TIMEOUT)
        except BrokenPipeError:
            raise Failed("the process has ended") from None
        finally:
            self.signal(signal.SIGSTOP)

    def has_ended(self):
        return self.process is None or self.process.poll() is not None

    def end(self):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def progress(text):
    """Who is at work."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def peak_bytes(pid):
    """The most memory that a process had resident; mapped files that it has read are part of it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None
