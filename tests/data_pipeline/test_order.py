"""Tests of the global order: the same for any number of hosts and after resuming, with every clip once per pass."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.batches import host_rows
from data_pipeline.order.mixing import Mixture, make_mixture
from data_pipeline.order.permutation import OrderState, below, fold, permute, uniform
from data_pipeline.order.sequence import Examples, GlobalSequence
from data_pipeline.order.windows import eligible_clips, window_frames, window_start
from tests.errors import refused

SEEDS = st.integers(0, 2**63 - 1)


@dataclass
class Table:
    name: str
    num_frames: np.ndarray

    @property
    def clip_ids(self) -> list[str]:
        return [f"{self.name}-{index}" for index in range(len(self.num_frames))]


@st.composite
def sequences(draw, weighted: bool = True) -> GlobalSequence:
    """Draws one to three data sets, weighted or not, each with up to 40 clips of 1 to 30 frames."""
    tables = []
    for number in range(draw(st.integers(1, 3))):
        lengths = draw(st.lists(st.integers(1, 30), max_size=39))
        tables.append(Table(f"set{number}", np.array([*lengths, 30])))
    weights = [draw(st.floats(0.5, 2)) for _ in tables] if weighted and draw(st.booleans()) else None
    epoch_length = draw(st.integers(20, 100)) if weights else None
    return GlobalSequence(
        tables, 8, weights=weights, epoch_length=epoch_length, short_clips=draw(st.sampled_from(["leave_out", "hold"]))
    )


def rows(examples: Examples) -> list[tuple[int, ...]]:
    return list(zip(*(part.tolist() for part in examples), strict=True))


def batches(sequence: GlobalSequence, state: OrderState, *, size: int, count: int, hosts: int) -> list:
    """Joins the examples of all hosts, in host order."""
    loaded = []
    for step in range(count):
        for host in range(hosts):
            mine = host_rows(size, host=host, hosts=hosts)
            loaded += rows(sequence.at(state, range(step * size + mine.start, step * size + mine.stop)))
    return loaded


@settings(deadline=None, max_examples=50)
@given(sequences(), SEEDS, st.integers(0, 3), st.integers(1, 3), st.data())
def test_any_number_of_hosts_loads_the_same_global_sequence(sequence, seed, epoch, quarter, data):
    position = data.draw(st.integers(0, sequence.epoch_length - 1))
    state, size = OrderState(seed, epoch, position), 4 * quarter
    alone = batches(sequence, state, size=size, count=5, hosts=1)
    for hosts in (2, 4):
        assert batches(sequence, state, size=size, count=5, hosts=hosts) == alone


@settings(deadline=None)
@given(sequences(), SEEDS, st.integers(0, 150), st.integers(1, 60))
def test_resuming_at_any_position_continues_exactly(sequence, seed, passed, count):
    start = OrderState(seed)
    whole = rows(sequence.at(start, range(passed + count)))
    resumed = OrderState.from_dict(json.loads(json.dumps(start.advanced(passed, sequence.epoch_length).to_dict())))
    assert rows(sequence.at(resumed, range(count))) == whole[passed:]


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_every_key_permutes_one_to_one(size, key):
    assert sorted(permute(np.arange(size), size, np.uint64(key)).tolist()) == list(range(size))


def test_permutations_are_near_uniform():
    """With 5 items and 1000 keys, each item takes each place about 200 times, with a standard deviation of 13."""
    counts = np.zeros((5, 5))
    for key in range(1000):
        counts[np.arange(5), permute(np.arange(5), 5, fold(key))] += 1
    assert np.abs(counts - 200).max() < 13 * 5


def test_positions_of_neighbours_are_unrelated():
    """The correlation of 10,000 pairs of uniform numbers has a standard deviation of 0.01."""
    order = permute(np.arange(10_000), 10_000, fold(7))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    other = permute(np.arange(10_000), 10_000, fold(8))
    assert abs(np.corrcoef(order, other)[0, 1]) < 0.05


@settings(deadline=None)
@given(sequences(weighted=False), SEEDS, st.integers(0, 5))
def test_an_epoch_without_weights_shows_every_eligible_clip_once(sequence, seed, epoch):
    seen = sequence.at(OrderState(seed, epoch), range(sequence.epoch_length))
    pairs = sorted(zip(seen.sources.tolist(), seen.clips.tolist(), strict=True))
    eligible = [(source, clip) for source, clips in enumerate(sequence._eligible) for clip in clips.tolist()]
    assert pairs == eligible


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.2, 5)), min_size=1, max_size=4), st.integers(60, 120), SEEDS)
def test_weights_hold_in_every_epoch_and_no_clip_repeats_before_all_were_used(sets, epoch_length, seed):
    sizes, weights = zip(*sets, strict=True)
    mixture = make_mixture(sizes, weights, epoch_length=epoch_length)
    shares = np.array(weights) / sum(weights) * epoch_length
    assert np.abs(np.array(mixture.quotas) - shares).max() < 1
    counts = [np.zeros(size, int) for size in sizes]
    for epoch in range(4):
        positions = np.arange(epoch_length)
        sources, clips = mixture.locate(seed, np.full(epoch_length, epoch), positions)
        assert np.bincount(sources, minlength=len(sizes)).tolist() == list(mixture.quotas)
        for source, count in enumerate(counts):
            count += np.bincount(clips[sources == source], minlength=len(count))
            # All clips have been used equally often, except in the unfinished pass.
            assert count.max() - count.min() <= 1


def test_every_epoch_and_seed_has_its_own_order():
    sequence = GlobalSequence([Table("a", np.full(50, 20))], 8)
    orders = [sequence.at(OrderState(seed, epoch), range(50)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert orders[one].clips.tolist() != orders[other].clips.tolist()
        assert orders[one].starts.tolist() != orders[other].starts.tolist()
        assert not set(orders[one].keys.tolist()) & set(orders[other].keys.tolist())


def test_the_order_does_not_change_between_releases():
    """Checkpoints resume with the same data in every release and on every machine."""
    sequence = GlobalSequence([Table("a", np.full(10, 20)), Table("b", np.full(3, 9))], 8)
    examples = sequence.at(OrderState(2026, 1, 11), range(4))
    assert rows(examples) == [
        (0, 5, 12, 13929421908327492871),
        (0, 8, 9, 6638709409774545973),
        (0, 6, 3, 203725296840774683),
        (0, 2, 9, 14391792509747172427),
    ]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**64 - 1))
def test_a_window_lies_within_its_clip(frames, length, bits):
    start = int(window_start(np.array([bits], np.uint64), np.array([frames]), length)[0])
    chosen = window_frames(start, length, frames)
    assert len(chosen) == length
    assert 0 <= chosen.min() <= chosen.max() < frames
    if frames >= length:
        assert np.diff(chosen).tolist() == [1] * (length - 1)
    else:
        assert chosen.tolist() == [*range(frames), *[frames - 1] * (length - frames)]


def test_every_start_is_equally_likely():
    """In 13,000 draws, each of 13 starts occurs about 1000 times, with a standard deviation of 30."""
    starts = window_start(fold(3, np.arange(13_000)), np.full(13_000, 20), 8)
    assert np.abs(np.bincount(starts, minlength=13) - 1000).max() < 5 * 30


def test_short_clips_are_left_out_or_held():
    lengths = np.array([8, 7, 1, 0, 30])
    assert eligible_clips(lengths, 8, "leave_out").tolist() == [0, 4]
    assert eligible_clips(lengths, 8, "hold").tolist() == [0, 1, 2, 4]
    assert GlobalSequence([Table("a", lengths)], 8).left_out == (3,)


def test_starting_late_takes_no_longer():
    sequence = GlobalSequence([Table("a", np.full(100_000, 20))], 8)
    began = time.perf_counter()
    sequence.at(OrderState(0, epoch=10**9, position=99_999), range(64))
    assert time.perf_counter() - began < 1  # it takes milliseconds; replaying 10^14 examples would take years


def test_a_substitute_is_another_clip_of_the_same_data_set_and_pure():
    sequence = GlobalSequence([Table("a", np.full(40, 20)), Table("b", np.full(40, 20))], 8)
    example = sequence.at(OrderState(5), range(7, 8))
    tried = [sequence.substitute(example, attempt) for attempt in range(1, 9)]
    assert len({int(one.clips[0]) for one in tried}) > 4
    assert {int(one.sources[0]) for one in tried} == {int(example.sources[0])}
    assert rows(tried[3]) == rows(sequence.substitute(sequence.at(OrderState(5), range(7, 8)), 4))


@given(st.integers(1, 64), st.sampled_from([1, 2, 4, 8]))
def test_hosts_share_a_batch_without_gap_or_overlap(share, hosts):
    parts = [host_rows(share * hosts, host=host, hosts=hosts) for host in range(hosts)]
    assert [row for part in parts for row in part] == list(range(share * hosts))


@given(SEEDS, st.integers(1, 1000))
def test_random_bits_become_numbers_in_range(bits, bound):
    assert 0 <= float(uniform(np.uint64(bits))) < 1
    assert 0 <= int(below(np.uint64(2**64 - 1 - bits), bound)) < bound


def test_fold_distinguishes_order_and_length_of_its_arguments():
    seen = [int(fold(*parts)) for parts in ((1, 2), (2, 1), (1,), (1, 0), (0, 1), (0,), (0, 0), (1, 2, 0))]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("call", "argument", "value"),
    [
        (lambda: OrderState(-1), "seed", -1),
        (lambda: OrderState(0, position=1.5), "position", 1.5),
        (lambda: OrderState.from_dict({"seed": 0}), "keys", ("seed",)),
        (lambda: OrderState(0, 0, 10).places(1, 10), "position", 10),
        (lambda: make_mixture([]), "sizes", 0),
        (lambda: make_mixture([3, 0]), "sizes", 1),
        (lambda: make_mixture([3, 3], [1, -1]), "weights", [1, -1]),
        (lambda: make_mixture([3, 3], [1]), "weights", [1]),
        (lambda: make_mixture([3, 3], [1, 1e-6]), "weights", 1),
        (lambda: GlobalSequence([Table("a", np.array([7, 3]))], 8), "frames", 8),
        (lambda: eligible_clips(np.array([1]), 8, "drop"), "short_clips", "drop"),
        (lambda: eligible_clips(np.array([1]), 0, "hold"), "frames", 0),
        (lambda: host_rows(6, host=0, hosts=4), "global_batch", 6),
        (lambda: host_rows(8, host=4, hosts=4), "host", 4),
    ],
)
def test_invalid_arguments_are_refused(call, argument, value):
    with refused(argument, value=value):
        call()


def test_mixture_without_weights_is_as_large_as_its_data_sets():
    assert make_mixture([5, 3]) == Mixture((5, 3), (5, 3))
