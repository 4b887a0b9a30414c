"""Programs that attack the machine, its files and the verdict."""



LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.shmat.restype = ctypes.c_void_p\n"

BOMBS = {  # against the machine: time, memory, processes, space
    "fork bomb": "import os\ndef double(x):\n    while True:\n        try: os.fork()\n        except OSError: pass\n",
    "fork bomb at the top": "import os\nwhile True: os.fork()\n",
    "thread bomb": "import threading\ndef double(x):\n    while True: threading.Thread(target=double, args=(x,)).start()\n",
    "memory bomb": "def double(x):\n    block = []\n    while True: block.append(bytearray(1 << 26))\n",
    "memory bomb, one block": "def double(x): return len(bytearray(6 << 30))\n",
    "shared memory bomb": LIBC + """
def double(x):
    for _ in range(20):
        number = libc.shmget(0, 1 << 26, 0o1600)
        if number < 0: raise OSError(ctypes.get_errno(), "refused")
        place = libc.shmat(number, None, 0)
        ctypes.memset(place, 1, 1 << 26); libc.shmdt(ctypes.c_void_p(place))
""",
    "files without a name": "import os\ndef double(x): return [os.write(os.memfd_create('x'), bytes(1 << 24)) for _ in range(50)]\n",
    "endless loop": "def double(x):\n    while True: pass\n",
    "endless loop at the top": "while True: pass\n",
    "endless sum in C": "import itertools\ndef double(x): return sum(itertools.count())\n",
    "sleep": "import time\ntime.sleep(1000)\n",
    "stops itself": "import os, signal\ndef double(x): os.kill(os.getpid(), signal.SIGSTOP)\n",
    "output flood": "import sys\ndef double(x):\n    while True: print('x' * 10**6); sys.stderr.write('x' * 10**6)\n",
    "endless answer": "def double(x):\n    while True: yield 4\n",
    "huge answer": "def double(x): return bytes(900 << 20)\n",
    "huge file": "def double(x):\n    with open('/tmp/full', 'wb') as file:\n        while True: file.write(bytes(1 << 20))\n",
    "many files": "def double(x):\n    for i in range(100):\n        with open(f'/tmp/{i}', 'wb') as file: file.write(bytes(15 << 20))\n",
    "all descriptors": "import os\ndef double(x): return [os.open('/dev/null', os.O_RDONLY) for _ in range(10**6)]\n",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef double(x): return double(x)\n",
    "deep recursion in C": "import sys\nsys.setrecursionlimit(10**9)\ndef double(x):\n    a = []\n    for _ in range(10**6): a = [a]\n    return repr(a)\n",
    "deep answer": "def double(x):\n    a = []\n    for _ in range(400): a = [a, a]\n    return a\n",
    "crash": "import ctypes\ndef double(x): ctypes.string_at(0)\n",
    "deaf to signals": """
import signal
for number in range(1, 64):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def double(x):
    while True: pass
""",
}

HARM = {  # against the user's files, secrets, processes and network; $HOME and the others are the test's own
    "delete the home": "import shutil\ndef double(x): shutil.rmtree('$HOME')\n",
    "delete everything": """
import os
def double(x):
    for place, folders, files in os.walk('/', topdown=False):
        for name in files + folders:
            try: os.remove(os.path.join(place, name))
            except OSError: pass
    if os.path.exists('$HOME/kept') or os.listdir('/tmp'): raise ValueError('$SECRET')
""",
    "overwrite a file": "def double(x): open('$HOME/kept', 'w').write('gone')\n",
    "overwrite the standard library": "import os\ndef double(x): open(os.__file__, 'a').write('evil')\n",
    "link to a file": "import os\ndef double(x):\n    os.symlink('$HOME/kept', '/tmp/link')\n    open('/tmp/link', 'w').write('gone')\n",
    "read ~/.netrc": "def double(x): raise ValueError(open('$HOME/.netrc').read())\n",
    "read the environment": "import os\ndef double(x): raise ValueError(str([v for v in os.environ.values() if '3cret' in v]))\n",
    "read the starter's environment": "def double(x): raise ValueError(open('/proc/$STARTER/environ').read())\n",
    "read another process": LIBC + """
def double(x):
    if libc.ptrace(16, $VICTIM, 0, 0) < 0: raise OSError(ctypes.get_errno(), "refused")
    raise ValueError("$SECRET")
""",
    "read the kernel's keyrings": LIBC + """
def double(x):
    if libc.syscall(250 if os.uname().machine == 'x86_64' else 219, 0, -3, 0) < 0: raise OSError(ctypes.get_errno(), "refused")
    raise ValueError("$SECRET")
""",
    "call home": "import socket\ndef double(x): socket.create_connection(('127.0.0.1', $PORT), timeout=1).send(b'x')\n",
    "call home without a handshake": "import socket\ndef double(x): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $PORT))\n",
    "call a local socket": "import socket\ndef double(x): socket.socket(socket.AF_UNIX).connect('\\0$ABSTRACT')\n",
    "kill its parent": "import os\ndef double(x): os.kill(os.getppid(), 9)\n",
    "kill everything": "import os\ndef double(x): os.kill(-1, 9)\n",
    "kill the starter": "import os\ndef double(x): os.kill($STARTER, 9)\n",
    "kill another process": "import os\ndef double(x): os.kill($VICTIM, 9)\n",
    "daemon": """
import os, time
def double(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(1000)
        os._exit(0)
""",
    "start a program": "import os\ndef double(x): os.posix_spawn('/bin/sleep', ['sleep', '$MARK'], {})\n",
    "become a program": "import os\ndef double(x): os.execv('/bin/sleep', ['sleep', '$MARK'])\n",
    "outlive its starter": LIBC + "libc.prctl(1, 0)\ndef double(x):\n    while True: pass\n",
    "a world of its own": LIBC + """
def double(x):
    if libc.unshare(0x10000000) < 0: raise OSError(ctypes.get_errno(), "refused")
    raise ValueError("$SECRET")
""",
}

FAKES = {  # against the verdict
    "os._exit": "import os\ndef double(x): os._exit(0)\n",
    "os._exit at the top": "import os\nos._exit(0)\n",
    "sys.exit": "import sys\ndef double(x): sys.exit(0)\n",
    "SystemExit at the top": "raise SystemExit(0)\n",
    "exit handler": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef double(x): return 0\n",
    "exit in C": LIBC + "def double(x): libc._exit(0)\n",
    "exec of true": "import os\ndef double(x): os.execv('/usr/bin/true', ['true'])\n",
    "signal to its group": "import os, signal\ndef double(x): os.killpg(0, signal.SIGKILL)\n",
    "printed verdict": "import os\nprint('passed')\ndef double(x):\n    print('ready')\n    os.write(1, b'passed')\n",
    "verdict on every descriptor": """
import os
def double(x):
    for fd in range(64):
        try: os.write(fd, b'passed\\n' * 10)
        except OSError: pass
""",
    "own check": "def check(candidate): pass\ndef exec(*a): pass\ndef double(x): return 0\n",
    "test's names overwritten": """
import sys
def double(x):
    frame = sys._getframe()
    while frame:
        for space in (frame.f_globals, frame.f_locals):
            for name in ('check', 'test', 'token', 'verdict', 'judge'): space[name] = lambda *a: True
        frame = frame.f_back
    return 0
""",
    "patched builtins": "import builtins\nbuiltins.AssertionError = builtins.all = lambda *a: True\ndef double(x): return 0\n",
    "patched modules": "import math, operator\nmath.isclose = operator.eq = lambda *a, **k: True\ndef double(x): return 0\n",
    "patched asserts": "import sys\nsys.settrace(lambda *a: None)\nsys.excepthook = lambda *a: None\ndef double(x): assert False\n",
    "always equal": "class Same:\n    def __eq__(self, other): return True\ndef double(x): return Same()\n",
    "always equal number": "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef double(x): return Same(5)\n",
    "pickle that runs": """
import os, pickle
class Evil:
    def __reduce__(self): return os.system, ('true',)
def double(x):
    for fd in range(64):
        try: os.write(fd, pickle.dumps(('value', Evil())))
        except OSError: pass
""",
    "pickle that runs, as an answer": """
import builtins
class Evil:
    def __reduce__(self): return builtins.exec, ("import os; os._exit(0)",)
def double(x): return [Evil()]
""",
    "caught failure": "def double(x): raise AssertionError\n",
    "signal handler": """
import os, signal
for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGXCPU): signal.signal(number, lambda *a: os._exit(0))
def double(x):
    signal.alarm(0); signal.raise_signal(signal.SIGALRM)
""",
}
