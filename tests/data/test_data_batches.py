"""rows: a pure function of seed and step in which every epoch holds every example once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spf.data.batches import Examples, rows
from spf.data.records import Record

seeds = st.integers(0, 2**63 - 1)
sizes = st.integers(1, 40)


def stream(seed: int, count: int, batch_size: int, steps: int) -> list[int]:
    return [row for step in range(steps) for row in rows(seed, step, count, batch_size)]


@given(seeds, sizes, sizes, st.integers(1, 5))
def test_every_epoch_covers_every_example_once(seed, count, batch_size, epochs):
    steps = -(-count * epochs // batch_size)
    numbers = stream(seed, count, batch_size, steps)
    for epoch in range(epochs):
        assert sorted(numbers[epoch * count:(epoch + 1) * count]) == list(range(count))


@given(seeds, sizes, sizes, sizes, st.integers(0, 60))
def test_the_stream_does_not_depend_on_the_batch_size(seed, count, first, second, length):
    assert stream(seed, count, first, length)[:length] == stream(seed, count, second, length)[:length]


@given(seeds, st.integers(0, 10**9), sizes, sizes)
def test_a_step_depends_on_nothing_else(seed, step, count, batch_size):
    batch = rows(seed, step, count, batch_size)
    assert len(batch) == batch_size and all(type(row) is int and 0 <= row < count for row in batch)
    rows(seed + 1, 3, count, batch_size)
    assert rows(seed, step, count, batch_size) == batch


def test_seeds_and_epochs_are_shuffled_differently():
    orders = {tuple(rows(seed, epoch, 64, 64)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_the_order_is_fixed_for_good():
    first, second = (np.random.default_rng((0, epoch)).permutation(8).tolist() for epoch in (0, 1))
    assert rows(0, 0, 8, 12) == first + second[:4]


@pytest.mark.parametrize("arguments", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0)])
def test_impossible_arguments(arguments):
    with pytest.raises(ValueError, match="is not defined"):
        rows(*arguments)


class FakeTexts:
    def __init__(self, values):
        self.values = values

    def __getitem__(self, rows):
        return FakeTexts([self.values[row] for row in rows])

    def to(self, device):
        return self


def examples(count: int) -> Examples:
    numbers = np.arange(count)
    records = tuple(Record(Path(f"{index}.png"), "a person", "a hat") for index in range(count))
    return Examples(
        numbers.reshape(-1, 1, 1, 1), FakeTexts(list(range(count))), FakeTexts(list(range(count))),
        numbers[:, None], numbers[:, None], numbers[:, None], records)


def test_a_batch_of_examples():
    batch = examples(5)[[3, 0, 3]]
    assert len(batch) == 3 and batch.latents.ravel().tolist() == batch.full.values == batch.base.values == [3, 0, 3]
    assert [record.path.name for record in batch.records] == ["3.png", "0.png", "3.png"]


def test_examples_of_different_lengths_are_refused():
    whole = examples(3)
    with pytest.raises(ValueError, match="gamma has 2 rows for 3 records"):
        Examples(whole.latents, whole.full, whole.base, whole.gamma[:2], whole.target_embedding,
                 whole.image_embedding, whole.records)
