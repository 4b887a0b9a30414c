"""The system calls that a program in the sandbox may not make, because they would get it around the sandbox's limits.

The list names what is forbidden, not what is allowed. Shared memory, queues and files without a name are counted by no limit of a process;
keyrings are not files; and the rest opens parts of the kernel that no answer to a problem needs. Each call is refused as "not permitted".
The numbers are those of Linux on x86-64 and ARM64 (asm/unistd.h); for other processors there is no filter.
"""
import errno
import platform
from collections.abc import Iterator
from struct import pack

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
