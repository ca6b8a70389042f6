"""Calls for every clip of a store: worker processes return the same values in the same order."""

import operator
import os

import pytest

from smcd_jax.evaluation import clip_calls
from smcd_jax.evaluation.clip_calls import ClipCalls
from smcd_jax.runtime.progress import Lines
from tests.errors import refused


class _Store:
    """Pairs of a clip and its videos; here of any two values."""

    def __init__(self, pairs):
        self._pairs = pairs

    def __len__(self):
        return len(self._pairs)

    def pairs(self):
        return iter(self._pairs)


class _EndsProcess:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.fixture(autouse=True)
def _a_worker_for_every_clip(monkeypatch):
    monkeypatch.setattr(clip_calls, "_LEAST", 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_values_come_in_the_order_of_the_clips(workers):
    lines = []
    calls = ClipCalls(_Store([(clip, 10) for clip in range(7)]), Lines(lines.append), workers=workers)
    assert list(calls.each("add", operator.add, picklable=True)) == [(clip, clip + 10) for clip in range(7)]
    assert lines[0].startswith("add: 7 clips in ")


def test_a_function_that_cannot_be_pickled_is_called_here():
    calls = ClipCalls(_Store([(1, 2), (3, 4)]), Lines(print), workers=2)
    assert dict(calls.each("process", lambda clip, videos: os.getpid())) == {1: os.getpid(), 3: os.getpid()}


def test_a_dead_worker_is_an_error_about_workers():
    calls = ClipCalls(_Store([(_EndsProcess(), 1), (2, 3)]), Lines(print), workers=2)
    with refused("workers", value=2):
        list(calls.each("add", operator.add, picklable=True))
