"""What a job of a sweep must not leave to the next one, which runs in the same process."""

import gc
import weakref

import pytest
import torch
from running import composed, run

from specexp.models import loading


@pytest.fixture
def own_threads():
    before = torch.get_num_threads()
    loading._default_threads.cache_clear()
    yield before
    torch.set_num_threads(before)
    loading._default_threads.cache_clear()


def test_a_job_without_a_number_of_threads_gets_what_the_process_began_with(own_threads):
    torch.set_num_threads(own_threads + 1)
    for threads in (own_threads, None, own_threads + 2, None):
        loading.set_threads(threads)
        assert torch.get_num_threads() == (own_threads + 1 if threads is None else threads)


def test_a_job_over_another_pair_lets_the_weights_of_the_one_before_go(tmp_path, capsys):
    """Whatever the method was: runners, oracles and programs of a finished job hold nothing."""
    for number, method in enumerate(("method=speculative", "method=synthetic", "method=tree", "method=captured")):
        run(composed(method), tmp_path / f"{number}")
    held = [weakref.ref(model) for model in loading._loaded.values()]
    assert len(held) == 2
    del method
    run(composed("model_pair=tiny_t5", "method=speculative", "dataset=microsum"), tmp_path / "other")
    gc.collect()
    assert not any(model() for model in held) and len(loading._loaded) == 2
