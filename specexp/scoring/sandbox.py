"""The sandbox runs what a model wrote, tests it, and says whether it passed. No other module starts processes.

Each check starts two processes from a bare interpreter (see inside_sandbox.py): one executes the program, the other holds the tests and
calls the program's functions over a socket. What each level of the sandbox adds to that:

                                    bubblewrap   namespaces   limits
    memory, CPU, file size, time        x            x          x
    environment variables hidden        x            x          x
    no new processes or threads         x            x          x      (1)
    tests and verdict out of reach      x            x          -      (2)
    no network                          x            x          -
    other processes out of reach        x            x          -
    nothing survives the check          x            x         (1)
    files hidden and read-only          x            -          -      (3)
    memory beside the processes' own    x            -          -      (4)
    keyrings of the kernel hidden       x            -          -      (4)

(1) The kernel does not count root's processes. Root therefore becomes `nobody` where it can: under bubblewrap and namespaces if this
    process may create them without a user namespace, under limits and namespaces only if `nobody` can read the standard library. Where it
    cannot, a fork bomb ends with the timeout, and at level `limits` a daemon may outlive its check.
(2) A process of the same user may read the judge's memory unless the system forbids it.
(3) The program sees /usr, the libraries and the Python installation, and can write into an empty /tmp of 64 MiB. At the other levels it
    sees the user's files, and may change what the user may change.
(4) System calls that reach uncounted memory, keyrings and rarely needed parts of the kernel are refused (below; on x86-64 and ARM64).
    At the other levels such memory lasts until the check ends, at level `limits` until the machine is restarted.

Not covered at any level: flaws of the kernel, timing and other side channels, memory that the kernel holds for many small files and
sockets (limited by time alone), and programs that recognise the test inputs. A program may redefine helpers that its prompt defines, as in
HumanEval itself. Only plain data passes between tests and program: an answer that is something else (a lambda, an object of a class of its
own) fails. Below level `bubblewrap` the sandbox is no defence against a determined attacker.

The last part lists the system calls that a program may not make, because they would get it around the limits: what is forbidden, not what
is allowed. Shared memory, queues and files without a name are counted by no limit of a process; keyrings are not files; and the rest opens
parts of the kernel that no answer to a problem needs. Each call is refused as "not permitted". The numbers are those of Linux on x86-64 and
ARM64 (asm/unistd.h); for other processors there is no filter.
"""

import contextlib
import errno
import math
import os
import pickle
import platform
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from struct import pack
from typing import BinaryIO

from specexp.errors import UserError

LEVELS = ("bubblewrap", "namespaces", "limits")
CHOICES = ("auto", "require", *LEVELS)
SCRATCH_BYTES = 64 << 20
START_SECONDS = 30.0  # a start takes milliseconds; a busy machine may take longer, and that is not the program's fault
FILTER = "FILTER"  # in a command: the descriptor from which bubblewrap is to read the system calls to refuse
ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # the same text gets the same verdict, whatever the order of its sets


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed. `reason` is "passed", "timed out" or "failed: ..." with the exception in one line."""
    passed: bool
    reason: str


class NotStarted(RuntimeError):
    """The sandbox itself did not start, so there is no verdict about the program."""


def check_level(level: object) -> None:
    """Raises UserError for a level that no Sandbox takes."""
    if level not in CHOICES:
        raise UserError(f"sandbox={level} does not exist: choose one of {', '.join(CHOICES)}.")


class Sandbox:
    """Judges programs at one level of containment.

    level: `auto` (the strongest that works here), `require` (bubblewrap, or an error), or one of LEVELS. A level that was named and cannot
    be reached is refused at once; `auto` is resolved when it is first needed.

    timeout_seconds: for the program and its tests together, from when both processes are up. memory_megabytes: address space of each of
    the two processes.
    """

    def __init__(self, level: str = "auto", timeout_seconds: float = 3.0, memory_megabytes: int = 1024):
        check_level(level)
        if timeout_seconds <= 0 or memory_megabytes < 64:
            raise UserError(f"the sandbox needs time and at least 64 MB, not {timeout_seconds} s and {memory_megabytes} MB: raise them.")
        self.demand, self.timeout_seconds, self.memory_megabytes = level, timeout_seconds, memory_megabytes
        if level != "auto":
            _ = self.level

    @property
    def level(self) -> str:
        """The level that was reached: a member of LEVELS."""
        return self._reached[0]

    @cached_property
    def _reached(self) -> tuple[str, tuple[str, ...]]:
        wanted = {"auto": LEVELS, "require": ("bubblewrap",)}.get(self.demand, (self.demand,))
        complaints = []
        for level in wanted:
            command, complaint = _working_command(level)
            if command is not None:
                return level, command
            complaints.append(f"{level}: {complaint}")
        raise UserError(f"sandbox={self.demand} does not work here ({'; '.join(complaints)}): install bubblewrap 0.7 or newer "
                        "and allow it user namespaces, or accept less with sandbox=auto.")

    def run(self, program: str, test: str) -> Verdict:
        """Executes `program`, then `test` with every function of the program callable by its name; passed if neither raised.

        Raises UserError if the sandbox stopped working, since then nothing is known about the program.
        """
        level, command = self._reached
        try:
            return _check(command, program, test, self.timeout_seconds, self.memory_megabytes)
        except (NotStarted, OSError) as error:
            way_out = "repeat the command when programs can be started again"
            raise UserError(f"the sandbox (level {level}) stopped working ({error}): {way_out}.") from error

    def run_all(self, checks: Iterable[tuple[str, str]]) -> list[Verdict]:
        """The verdicts of `run` for each (program, test), in the same order; as many are run at a time as there are cores."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with ThreadPoolExecutor(cores) as pool:  # its threads only wait: each check is two processes
            return list(pool.map(lambda check: self.run(*check), checks))


# ---------------------------------------------------------------- levels
def _commands(level: str) -> list[tuple[str, ...]]:
    """The commands that start the interpreter at this level, the better variant first.

    Root first tries without a user namespace: in one that maps a single user it could not become `nobody`. The second `unshare` is the
    first process of its namespace, so that the program is not: when the first process ends the kernel ends all others, and a first process
    does not receive its own alarms.
    """
    if level == "limits":
        return [()]
    as_root = os.geteuid() == 0
    if level == "bubblewrap" and (bwrap := shutil.which("bwrap")):
        view = (bwrap, *_view(), *(("--seccomp", FILTER) if seccomp_filter() else ()))
        return [(*view, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")] * as_root + [(*view, "--unshare-user")]
    if level == "namespaces" and (unshare := shutil.which("unshare")):
        isolate = ("--net", "--pid", "--ipc", "--fork", "--kill-child", unshare, "--fork")
        return [(unshare, *isolate)] * (as_root and _open_to_all(Path(os.__file__))) + [(unshare, "--user", "--map-current-user", *isolate)]
    return []


def _open_to_all(file: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in file.parents)


def _view() -> tuple[str, ...]:
    """bubblewrap's arguments: a file system of its own with a read-only Python and a small /tmp, which ends with its starter."""
    isolate = "--unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --die-with-parent --new-session --cap-drop ALL"
    scratch = f"--perms 1777 --size {SCRATCH_BYTES} --tmpfs /tmp --chdir /tmp --perms 0755 --dir /dev --dev-bind /dev/null /dev/null"
    bound = ["--ro-bind", "/usr", "/usr"]
    for folder in ("/lib", "/lib64"):
        if os.path.islink(folder):
            bound += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            bound += ["--ro-bind", folder, folder]
    for prefix in {sys.base_prefix, sys.base_exec_prefix}:
        if not Path(prefix).is_relative_to("/usr"):
            bound += [*_open_parents(Path(prefix)), "--ro-bind", prefix, prefix]
    return (*isolate.split(), *bound, *scratch.split(), "--remount-ro", "/")


def _open_parents(folder: Path) -> list[str]:
    """Empty folders above a bound one that `nobody` may enter; those that bubblewrap makes itself would be closed to other users."""
    return [argument for parent in reversed(folder.parents[:-1]) for argument in ("--perms", "0755", "--dir", str(parent))]


def _interpreter() -> str:
    """The installation's own interpreter, not the virtual environment's, so that the program gets the standard library and nothing else."""
    return os.path.realpath(sys._base_executable)


@cache
def _working_command(level: str) -> tuple[tuple[str, ...] | None, str]:
    """(command, "") of the first variant in which a check really works, otherwise (None, the reason)."""
    complaint = "not installed"
    for command in _commands(level):
        try:
            verdict = _check(command, "import math\ndef root(x): return math.sqrt(x)", "assert root(4) == 2", START_SECONDS, 256)
        except (NotStarted, OSError) as error:
            complaint = str(error)
            continue
        if verdict.passed:
            return command, ""
        complaint = verdict.reason
    return None, complaint


# ---------------------------------------------------------------- one check
def _check(command: tuple[str, ...], program: str, test: str, seconds: float, megabytes: int) -> Verdict:
    """Runs one check in two processes. An answer counts only with the token, which the program's process never holds."""
    token = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        judges_end, programs_end = (stack.enter_context(end) for end in socket.socketpair())
        arguments = (str(megabytes), str(math.ceil(seconds) + 1), str(judges_end.fileno()))
        _start(stack, (*command, *_python("program"), *arguments), scratch,
               stdin=programs_end, stdout=programs_end, stderr=subprocess.DEVNULL)
        judge = _start(stack, (*command, *_python("judge"), *arguments), scratch,
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(judges_end.fileno(),))
        judges_end.close()
        programs_end.close()
        _await_start(judge)
        try:
            answer, _ = judge.communicate(pickle.dumps((token, program, test)), timeout=seconds)
        except subprocess.TimeoutExpired:
            return Verdict(False, "timed out")
    sender, _, reason = answer.decode(errors="replace").partition(" ")
    if sender != token:
        return Verdict(False, f"failed: the judge ended without a verdict (exit code {judge.returncode})")
    return Verdict(reason == "passed", reason)


def _python(role: str) -> tuple[str, ...]:
    return (_interpreter(), "-s", "-S", "-B", "-c", _source(), role)


@cache
def _source() -> str:
    return Path(__file__).with_name("inside_sandbox.py").read_text(encoding="utf-8")


def _start(stack: contextlib.ExitStack, command: Sequence[str], folder: str, pass_fds: tuple[int, ...] = (), **streams) -> subprocess.Popen:
    """Starts a process in a session of its own, which is ended with its whole group when the stack closes."""
    if FILTER in command:
        descriptor = stack.enter_context(_readable(seccomp_filter())).fileno()
        command, pass_fds = [str(descriptor) if word == FILTER else word for word in command], (*pass_fds, descriptor)
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # some interpreters need it to start
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT | libraries, start_new_session=True, bufsize=0, pass_fds=pass_fds, **streams
    )
    stack.enter_context(process)
    stack.callback(_end, process)
    return process


def _readable(content: bytes) -> BinaryIO:
    """The reading end of a pipe that holds `content`, which is short enough to fit."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return os.fdopen(reading, "rb")


def _end(process: subprocess.Popen) -> None:
    if process.returncode is None:  # nobody has waited for it yet, so its number belongs to no other process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _await_start(judge: subprocess.Popen) -> None:
    started, _, _ = select.select([judge.stdout], [], [], START_SECONDS)
    if started and judge.stdout.readline() == b"ready\n":
        return
    _end(judge)
    raise NotStarted(" ".join(judge.stderr.read().decode(errors="replace").split()[-40:]) or "it did not start in time")


DENIED = {  # name: number on x86-64, on ARM64
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_* of linux/audit.h
OTHER_NUMBERING = 0x40000000  # set in the numbers of x86-64's x32 calls
LOAD, JUMP_IF_EQUAL, JUMP_IF_NOT_LESS, RETURN = 0x20, 0x15, 0x35, 0x06  # linux/filter.h
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000  # linux/seccomp.h


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter as bubblewrap's --seccomp reads it, an array of struct sock_filter; None for a processor whose numbers are not known.

    machine: as `platform.machine()` names it; None for this one.
    """
    machine = machine or platform.machine()
    return b"".join(_instructions(*MACHINES[machine])) if machine in MACHINES else None


def _instructions(column: int, architecture: int) -> Iterator[bytes]:
    yield _instruction(LOAD, ARCHITECTURE)
    yield _instruction(JUMP_IF_EQUAL, architecture, skip_if=1)
    yield _instruction(RETURN, KILL)  # 32-bit calls: other numbers
    yield _instruction(LOAD, NUMBER)
    yield _instruction(JUMP_IF_NOT_LESS, OTHER_NUMBERING, skip_else=1)
    yield _instruction(RETURN, KILL)
    for numbers in DENIED.values():
        yield _instruction(JUMP_IF_EQUAL, numbers[column], skip_else=1)
        yield _instruction(RETURN, REFUSE)
    yield _instruction(RETURN, ALLOW)


def _instruction(code: int, value: int, skip_if: int = 0, skip_else: int = 0) -> bytes:
    """One struct sock_filter; `skip_if` and `skip_else` are how many instructions a jump skips."""
    return pack("=HBBI", code, skip_if, skip_else, value)
