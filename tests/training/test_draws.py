"""Draws of a training batch, whole and in parts."""

import pytest
import torch

from cmlab.training.draws import BatchDraws


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_batch_draws_parts_make_the_whole(kind):
    whole = getattr(BatchDraws(3, 6), kind)((6, 2))
    parts = [getattr(BatchDraws(3, 6, start, start + 2), kind)((2, 2)) for start in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("rows", [(0, 64), (64, 128), (60, 70), (130, 150), (0, 150), (149, 150)])
def test_any_rows_of_a_long_batch_are_those_of_the_whole(rows):
    whole, part = BatchDraws(3, 150), BatchDraws(3, 150, *rows)
    for _ in range(2):  # the second draw goes on where the first ended
        for shape in ((), (3, 2)):
            assert torch.equal(part.normal((rows[1] - rows[0], *shape)), whole.normal((150, *shape))[slice(*rows)])
    assert torch.equal(part.uniform((rows[1] - rows[0],)), whole.uniform((150,))[slice(*rows)])
    assert len(whole.normal((150,)).unique()) == 150  # no block repeats another


def test_a_part_draws_its_own_blocks_alone():
    drawn = []
    part = BatchDraws(3, 4096, 512, 576)
    part._cut(lambda shape, generator: drawn.append(shape[0]) or torch.randn(shape, generator=generator), (64, 2))
    assert drawn == [64]


def test_batch_draws_refuse_another_size():
    with pytest.raises(ValueError, match="2 rows"):
        BatchDraws(0, 6, 0, 2).normal((3, 2))


@pytest.mark.usefixtures("untouched_rng")
def test_batch_draws_leave_the_global_generator_alone():
    source = BatchDraws(0, 2)
    source.normal((2, 2))
    source.uniform((2, 2))
