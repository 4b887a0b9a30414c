"""Hostile completions at the strongest level: each is judged failed, the host is untouched, and the next check is as good as the first.

What they aim at (a home, a listener, a process, secrets) was made for them, so a sandbox that fails them harms nobody.
"""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pytest
from attacks import BOMBS, FAKES, HARM

from specexp.errors import UserError
from specexp.scoring.sandbox import Sandbox

MARK = 779 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])  # memory_megabytes that no other sandbox has, to be found in command lines
SECRET = "s3cret-of-the-host"
RIGHT = "def double(x):\n    return 2 * x\n"
TEST = "def check(candidate):\n    assert all([candidate(2) == 4, candidate(3) == 6])\n    assert candidate(-1) == -2\ncheck(double)\n"

ATTACKS = BOMBS | HARM | FAKES
IN_TIME = {"endless loop", "endless loop at the top", "endless sum in C", "sleep", "stops itself", "output flood", "deaf to signals"}


@dataclass(frozen=True)
class Host:
    """What the attacks are aimed at, and whether it is still as it was."""

    home: Path
    listener: socket.socket
    datagrams: socket.socket
    local: socket.socket
    victim: subprocess.Popen

    def aimed(self, program: str) -> str:
        names = {"HOME": self.home, "PORT": self.listener.getsockname()[1], "ABSTRACT": self.local.getsockname()[1:].decode(), "SECRET": SECRET}
        return Template(program).substitute(names, STARTER=os.getpid(), VICTIM=self.victim.pid, MARK=MARK)

    def check_untouched(self) -> None:
        assert {file.name: file.read_text() for file in self.home.iterdir()} == {".netrc": f"password {SECRET}", "kept": "mine"}
        for ear in (self.listener, self.datagrams, self.local):
            with pytest.raises(BlockingIOError):  # nobody called
                ear.accept() if ear.type == socket.SOCK_STREAM else ear.recv(1)
        assert self.victim.poll() is None
        assert survivors() == []


def survivors() -> list[str]:
    """Processes of checks of this file, after the moment that a kill takes."""
    deadline = time.monotonic() + 30
    while (found := marked_processes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def marked_processes() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(MARK).encode() in words:
            found.append(folder.name)
    return found


@pytest.fixture(scope="module")
def sandbox():
    """Short of time: no attack is meant to answer."""
    try:
        return Sandbox("require", timeout_seconds=0.7, memory_megabytes=MARK)
    except UserError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the strongest level does not work here: {error}")


@pytest.fixture
def host(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text(f"password {SECRET}")
    (home / "kept").write_text("mine")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    listener = socket.create_server(("127.0.0.1", 0))
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(listener.getsockname())
    local = socket.socket(socket.AF_UNIX)
    local.bind(f"\0specexp-{os.getpid()}")
    local.listen()
    victim = subprocess.Popen(["sleep", "1000"])
    for ear in (listener, datagrams, local):
        ear.setblocking(False)
    yield Host(home, listener, datagrams, local, victim)
    victim.kill()
    victim.wait()
    for ear in (listener, datagrams, local):
        ear.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails_and_leaves_no_trace(sandbox, host, name, capfd):
    verdict = sandbox.run(host.aimed(ATTACKS[name]), TEST)
    assert not verdict.passed and SECRET not in verdict.reason, verdict
    assert verdict.reason.startswith("timed out" if name in IN_TIME else ("failed", "timed out")), verdict
    assert capfd.readouterr() == ("", "")
    host.check_untouched()
    assert Sandbox("require", timeout_seconds=20.0, memory_megabytes=MARK).run(RIGHT, TEST).passed


def test_the_attacks_would_hit_without_a_sandbox(host):
    """That they are aimed well: the harmless ones of them, run as they are."""
    for name in ("overwrite a file", "read ~/.netrc", "read the environment", "call home", "kill another process", "call a local socket"):
        ran = subprocess.run([sys.executable, "-c", host.aimed(ATTACKS[name]) + "\ndouble(1)"], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0 or SECRET in ran.stderr, (name, ran.stderr)
    assert (host.home / "kept").read_text() == "gone" and host.victim.wait(timeout=60) == -9
    host.listener.accept()[0].close()
    host.local.accept()[0].close()


def test_nothing_survives_a_starter_that_is_killed(sandbox):
    starter = f"from specexp.scoring.sandbox import Sandbox\nSandbox('require', 60.0, {MARK}).run('while True: pass', '')"
    with subprocess.Popen([sys.executable, "-c", starter]) as process:
        deadline = time.monotonic() + 30
        while len(marked_processes()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert survivors() == []
