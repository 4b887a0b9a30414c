"""What runs inside the sandbox: the process that executes the program and the process that judges it.

Started by `sandbox.py` as `python -c SOURCE ROLE ...`; only the standard library, and little of it, so that a start stays quick.

    program   executes the model's code, then answers calls to its functions
    judge     executes the tests; the names that the program defined are stand-ins that call over the link

The two share a socket and nothing else. The program never sees the tests, the token or the verdict's pipe, so it has nothing to forge or
to patch: it can only answer calls. Answers are pickles of plain values; the judge loads no other class, hence no object of the program's
making (with an `__eq__` that is always true, say) ever meets an assertion. Arguments are copies: a test cannot see them change.
"""
import builtins
import io
import os
import resource
import sys
from types import ModuleType

try:  # the parts in C alone: the full modules import `re` and `enum`, with which a start takes half as long again
    import _pickle as pickle
    import _signal as signal
except ImportError:
    import pickle
    import signal

MIB = 1 << 20
NOBODY = 65534
FILE_BYTES = 16 * MIB
OPEN_FILES = 64
ORPHAN_SECONDS = 60  # wall time left to a process whose starter was killed before it could end it
PLAIN_TYPES = (dict, list, tuple, set, frozenset, str, bytes, int, float)
LOADABLE = {("builtins", kind.__name__): kind for kind in (*PLAIN_TYPES, bytearray, complex, iter, range)}
LOADABLE_ELSEWHERE = {("collections", "deque"), ("decimal", "Decimal"), ("fractions", "Fraction")}


class PlainPickler(pickle.Pickler):
    """Turns subclasses of the plain types into those types (`==` treats them alike) and iterators into iterators over a list."""

    def reducer_override(self, value):
        if hasattr(type(value), "__next__"):
            return iter, (list(value),)
        for kind in PLAIN_TYPES:
            if isinstance(value, kind):
                return kind, (kind(value),)
        return NotImplemented


class PlainUnpickler(pickle.Unpickler):
    """Loads plain values only, whatever else the pickle asks for."""

    def find_class(self, module, name):
        if (module, name) in LOADABLE_ELSEWHERE:
            return super().find_class(module, name)
        if (module, name) not in LOADABLE:
            raise pickle.UnpicklingError(f"the program answered with a {module}.{name}, which is not plain data")
        return LOADABLE[module, name]


def as_plain(value) -> bytes:
    """The whole pickle of a value, made before any of it is sent: a value that cannot be pickled must not leave half a message on the
    link.
    """
    buffer = io.BytesIO()
    PlainPickler(buffer).dump(value)
    return buffer.getvalue()


def send(stream, message: bytes) -> None:
    stream.write(message)
    stream.flush()


def imported(module: str) -> ModuleType:
    __import__(module)
    return sys.modules[module]


def described(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# ---------------------------------------------------------------- the program's process
def run_program(requests, answers) -> None:
    """Executes the first request, then answers (name, args, kwargs) until the judge closes the link."""
    send(answers, as_plain("ready"))
    namespace = {}
    try:
        exec(compile(pickle.load(requests), "<program>", "exec"), namespace)
        send(answers, as_plain(("value", defined_names(namespace))))
    except BaseException as error:  # SystemExit too: a program that leaves has not passed
        send(answers, as_plain(("error", type(error).__name__, described(error))))
        return
    while True:
        try:
            name, args, kwargs = pickle.load(requests)
        except EOFError:
            return
        answer_call(answers, namespace[name], args, kwargs)


def answer_call(answers, function, args, kwargs) -> None:
    try:
        answer = as_plain(("value", function(*args, **kwargs)))
    except BaseException as error:  # as above
        answer = as_plain(("error", type(error).__name__, described(error)))
    send(answers, answer)


def defined_names(namespace: dict) -> tuple[list[str], dict[str, str]]:
    """(callables, modules by alias) that the program defined. Builtins cannot be redefined for the tests."""
    names = {name: value for name, value in namespace.items() if not name.startswith("__") and not hasattr(builtins, name)}
    callables = [name for name, value in names.items() if callable(value)]
    return callables, {name: value.__name__ for name, value in names.items() if isinstance(value, ModuleType)}


# ---------------------------------------------------------------- the judge's process
class Judge:
    """Executes the tests; it holds the link to the program and the pipe through which the verdict leaves."""

    def __init__(self, link: int, verdicts: int):
        self.requests, self.answers = os.fdopen(link, "wb", closefd=False), os.fdopen(link, "rb")
        self.verdicts, self.token = verdicts, ""

    def leave(self, verdict: str):
        """Reports the verdict and ends at once, so that no handler of the tests can take it back."""
        os.write(self.verdicts, f"{self.token} {verdict}".encode(errors="replace"))
        os._exit(0)

    def ask(self, request):
        try:
            send(self.requests, pickle.dumps(request))
            kind, *rest = PlainUnpickler(self.answers).load()
        except (EOFError, ConnectionError):
            self.leave("failed: the program ended its own process")
        if kind == "value":
            return rest[0]
        kind_of_error = getattr(builtins, rest[0], None)
        if isinstance(kind_of_error, type) and issubclass(kind_of_error, Exception):
            raise kind_of_error(rest[1].partition(": ")[2])
        raise RuntimeError(rest[1])

    def stand_in(self, name: str):
        def call(*args, **kwargs):
            return self.ask((name, args, kwargs))
        return call

    def wait_for_program(self) -> None:
        try:
            PlainUnpickler(self.answers).load()
        except EOFError:
            sys.exit("the program's process did not start")
        os.write(self.verdicts, b"ready\n")

    def run(self, program: str, test: str) -> str:
        try:
            callables, modules = self.ask(program)
            namespace = {name: imported(module) for name, module in modules.items()
                         if module.partition(".")[0] in sys.stdlib_module_names}
            namespace.update({name: self.stand_in(name) for name in callables})
            exec(compile(test, "<test>", "exec"), namespace)
        except BaseException as error:  # whatever the tests raise is the verdict
            return f"failed: {described(error)}"
        return "passed"


# ---------------------------------------------------------------- both
def limit_resources(megabytes: int, seconds: int) -> None:
    """Limits this process. No new process or thread may start: the kernel enforces that for everybody but root (hence `become_nobody`)."""
    limits = {
        "RLIMIT_AS": megabytes * MIB, "RLIMIT_CPU": seconds, "RLIMIT_FSIZE": FILE_BYTES,
        "RLIMIT_NOFILE": OPEN_FILES, "RLIMIT_NPROC": 0, "RLIMIT_CORE": 0,
    }
    for name, limit in limits.items():
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (limit, limit))
    signal.alarm(seconds + ORPHAN_SECONDS)


def become_nobody() -> None:
    """Root gives up its rights, unless `nobody` could not read the standard library or this user namespace knows one user only."""
    folder = os.path.dirname(os.__file__)
    while folder != os.path.dirname(folder):
        if not os.stat(folder).st_mode & 0o001:
            return
        folder = os.path.dirname(folder)
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    except OSError:
        return


def take_over(descriptor: int) -> int:
    """A private copy of a standard stream, which itself leads nowhere from now on."""
    copy, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return copy


def main(role: str, megabytes: str, seconds: str, link: str) -> None:
    """`link` is the judge's end of the socket; the program's end is its standard input and output."""
    if os.getuid() == 0:
        become_nobody()
    limit_resources(int(megabytes), int(seconds))
    source, sink = os.fdopen(take_over(0), "rb"), take_over(1)
    if role == "program":
        take_over(2)
        run_program(source, os.fdopen(sink, "wb"))
        return
    judge = Judge(int(link), sink)
    judge.wait_for_program()
    take_over(2)
    judge.token, program, test = pickle.load(source)
    judge.leave(judge.run(program, test))


if __name__ == "__main__":
    main(*sys.argv[1:])
