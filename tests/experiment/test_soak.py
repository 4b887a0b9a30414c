"""A soak: 2,000 prompts in one process, methods rotating as the jobs of a long sweep do. Memory stays flat, no file, thread or process is left.

`python -m pytest -m slow -n0 -s tests/experiment/test_soak.py` prints what it saw.
"""

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import composed, run
from soak import PER_JOB, ROTATION, ROTATIONS

MOST_GROWTH = 16 << 20  # bytes, from the second rotation to the last; a rotation's records alone are larger


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    resident: int
    files: int
    threads: int
    children: int

    @classmethod
    def now(cls):
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        children = sum(len((task / "children").read_text().split()) for task in Path("/proc/self/task").iterdir() if (task / "children").exists())
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count(), children)


@pytest.mark.slow
def test_two_thousand_prompts_leave_nothing_behind(tmp_path, monkeypatch):
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    monkeypatch.chdir(tmp_path)
    seen = []
    for rotation in range(ROTATIONS):
        for number, choice in enumerate(ROTATION):
            directory = tmp_path / f"{rotation}-{number}"
            run(composed(*choice, f"dataset.limit={PER_JOB}", "max_new_tokens=12", "warmup=0", "cost_curve=false", f"seed={rotation}"), directory)
            assert len((directory / "records.jsonl").read_bytes().splitlines()) == PER_JOB
        seen.append(Held.now())
        print(f"{(rotation + 1) * PER_JOB * len(ROTATION)} prompts: {seen[-1]}", flush=True)
    warm, last = seen[1], seen[-1]
    assert (last.files, last.threads, last.children) == (warm.files, warm.threads, warm.children)
    assert last.resident - warm.resident < MOST_GROWTH
