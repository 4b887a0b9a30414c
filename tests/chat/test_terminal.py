"""The commands as a user starts them: the console in a real terminal, from a pipe and a script; the server as a process, stopped by signals."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import httpx
import pexpect
import pytest

from specexp.report.papers import COLUMNS

pytestmark = pytest.mark.slow
QUIET = {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm-256color", "COLUMNS": "100", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
SAID = [  # what each command does, as help tells it, and what it then says
    ("/speculative", "speculative: off"),
    ("/speculative", "speculative: on"),
    ("/target", "target: off"),
    ("/target", "target: on"),
    ("/drafter", "drafter: on"),
    ("/drafter", "drafter: off"),
    ("/length 9", "length: 9 tokens"),
    ("/gamma 3", "gamma: 3"),
    ("/seed 7", "seed: 7"),
    ("/processor nucleus 0.8 0.9", "processor: nucleus temperature=0.8 top_p=0.9"),
    ("/processor topk 0.8 5", "processor: topk temperature=0.8 top_k=5"),
    ("/processor topknucleus 0.8 5 0.9", "processor: topknucleus temperature=0.8 top_k=5 top_p=0.9"),
    ("/processor multinomial 0.8", "processor: multinomial temperature=0.8"),
    ("/processor greedy", "processor: greedy"),
    ("/cache", "cache: none"),
    ("/cache", "cache: full"),
    ("/ngram", "nasd: on"),
    ("/top_k_filler 2", "nasd: top_k_filler=2"),
    ("/set_ngramstorage onelevel 3", "n-gram storage: onelevel, order 3"),
    ("/reset_in_between", "nasd: reset_in_between=false"),
    ("/egag", "egag: on"),
    ("/egag_gamma_min 2", "egag: gamma_min=2"),
    ("/egag_gamma_max 5", "egag: gamma_max=5"),
    ("/egag_ema 0.5", "egag: ema=0.5"),
    ("/egag", "egag: off"),
    ("/method prompt_lookup gamma=6", "prompt_lookup: on with gamma=6"),
    ("/method prompt_lookup", "prompt_lookup: off"),
    ("/chat", "chat: off"),
    ("/chat", "chat: on"),
    ("/chat", "chat: off"),
    ("/method nothing", "/method nothing does not exist"),
    ("/wrong", "/wrong is no command"),
]


def console(*arguments):
    return [sys.executable, "-m", "specexp.chat", "threads=1", *arguments]


@pytest.fixture
def terminal(tmp_path):
    command, *arguments = console("chat_template=plain", f"history={tmp_path}/history", "ignore_eos=true")
    child = pexpect.spawn(command, arguments, env=os.environ | QUIET, cwd=tmp_path, encoding="utf-8", timeout=60, dimensions=(40, 100))
    child.expect("enabled: target, speculative")
    yield child
    child.close(force=True)


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_every_command_in_a_real_terminal(terminal, tmp_path):
    for line, said in SAID:
        terminal.send(line + "\r")
        terminal.expect_exact(said)
    terminal.send("/help\r")
    terminal.expect_exact("A line that begins with // is a remark.")
    helped = plain(terminal.before)
    assert all(f"\n{line.split()[0]} " in helped for line, _ in SAID if line not in ("/wrong",))
    terminal.send("def add(a, b):\\n\r")
    terminal.expect_exact("── target")
    terminal.expect_exact("── speculative")
    terminal.expect("\x1b\\[32m")  # an accepted token is green
    terminal.expect_exact("── nasd")
    terminal.expect(r"target's.text")  # the table's head
    terminal.expect(r"speculative.*x.*same")
    terminal.send("/debug\r")
    terminal.expect_exact("debug: on")
    terminal.send("def sub(a, b):\\n\r")
    terminal.expect_exact("end: length")
    terminal.expect(r"nasd.*x.*same")
    terminal.send("/debug\r")
    terminal.expect_exact("debug: off")
    terminal.send("/compare\r")
    terminal.expect(r"target +18 ")  # two prompts of nine tokens
    terminal.send(f"/save {tmp_path}/runs.csv\r")
    terminal.expect_exact("6 generations saved")
    assert len(list(csv.DictReader((tmp_path / "runs.csv").open()))) == 6
    terminal.send("/clear\r")
    terminal.expect("\x1b\\[2J")
    terminal.send("/quit\r")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


def test_ctrl_c_stops_the_generation_and_keeps_the_session(terminal):
    terminal.send("/length 8000\r")
    terminal.expect_exact("length: 8000")
    terminal.send("def add(a, b):\\n\r")
    terminal.expect_exact("── target")
    terminal.expect("return|result|Return")
    terminal.sendintr()
    terminal.expect_exact("[stopped]", timeout=5)
    terminal.send("/egag_g\t\t")  # completed
    terminal.expect_exact("/egag_gamma_m")
    terminal.sendintr()  # gives the line up
    terminal.send("/length 4\r")
    terminal.expect_exact("length: 4 tokens")
    terminal.send("def add(a, b):\\n\r")
    terminal.expect("speculative.*x.*same")
    terminal.send("\x1b[A\x1b[A\r")  # the line before the last one, out of the history
    terminal.expect_exact("length: 4 tokens")
    terminal.expect_exact("\x1b[?2004h")  # the next prompt listens: what is typed between two prompts may be lost
    terminal.sendeof()
    terminal.expect(pexpect.EOF)


def test_a_script_gives_the_ablation_and_a_mistake_its_line(tmp_path):
    script = tmp_path / "ablation.txt"
    script.write_text("/length 8\n/method nasd order=3\n/egag\ndef f(x):\\n\n/save ablation.csv\n")
    done = subprocess.run(console("--script", str(script)), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "\x1b" not in done.stdout, done.stderr
    rows = list(csv.DictReader((tmp_path / "ablation.csv").open()))
    assert tuple(rows[0]) == COLUMNS and [row["method"] for row in rows] == ["autoregressive", "egag", "nasd"]
    assert rows[1]["gamma_max"] == "6" and rows[1]["mean_h"] and rows[2]["order"] == "3"
    script.write_text("/length 8\n/lenght 9\n")
    done = subprocess.run(console("--script", str(script)), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.endswith(f"specexp chat: {script}, line 2: /lenght is no command (did you mean /length?); /help lists them.\n")
    assert {file.name for file in tmp_path.iterdir()} == {"ablation.txt", "ablation.csv"}


def test_prompts_from_a_pipe(tmp_path):
    done = subprocess.run(console("max_new_tokens=6"), input="def f(x):\\n\n", cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "── speculative" in done.stdout and "same" in done.stdout


@pytest.fixture
def server(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "specexp.serve", "threads=1", "server.port=0", "server.grace_seconds=3"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"at (http://127.0.0.1:\d+)/v1", line):
            yield process, found[1]
            break
    process.kill()
    process.wait()


def test_the_server_ends_cleanly_at_a_signal(server, tmp_path):
    """The running request ends or is cancelled in its time of grace; no traceback, nothing left behind."""
    process, root = server
    assert httpx.get(f"{root}/health").status_code == 200
    with httpx.stream("POST", f"{root}/v1/completions", json={"prompt": "x", "max_tokens": 9000, "ignore_eos": True, "stream": True}, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        last = [line for line in lines if line][-1]
    assert "the server is stopping" in last
    process.wait(15)
    assert time.monotonic() - began < 10
    assert process.stderr.read() == "specexp serve: stopped.\n" and list(tmp_path.iterdir()) == []


def test_a_killed_client_frees_the_server_within_a_second(server):
    _, root = server
    body = '{"prompt": "x", "max_tokens": 9000, "ignore_eos": true}'
    program = f"import httpx; httpx.post('{root}/v1/completions', content='''{body}''', headers={{'content-type': 'application/json'}}, timeout=60)"
    client = subprocess.Popen([sys.executable, "-c", program])

    def running():
        return "specexp_running 1.0" in httpx.get(f"{root}/metrics").text

    while not running():
        time.sleep(0.05)
    client.kill()
    client.wait()
    time.sleep(1.0)
    assert not running()


@pytest.mark.parametrize("module", ["chat", "serve"])
def test_mistakes_on_the_command_line_are_one_sentence(module, tmp_path):
    done = subprocess.run([sys.executable, "-m", f"specexp.{module}", "method.gama=3"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"no key method.gama (did you mean method.gamma?); `specexp {module} --cfg job`" in done.stderr
    helped = subprocess.run([sys.executable, "-m", f"specexp.{module}", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert helped.returncode == 0 and f"specexp {module}" in helped.stdout
