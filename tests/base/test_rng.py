"""The replayed random state."""

import pytest
import torch

from cmlab.base.rng import replay_rng

CPU = torch.device("cpu")


def test_replay_repeats_the_numbers():
    with torch.random.fork_rng(devices=[]), replay_rng(CPU) as replay:
        first = torch.rand(4)
        replay.rewind()
        assert torch.equal(torch.rand(4), first)


@pytest.mark.parametrize("second_pass", [0, 2, 4, 9])
def test_replay_leaves_the_state_of_one_pass(second_pass):
    # The second pass may draw less (a target in eval mode) or more; the next training step must not see which.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.rand(4)
        after_one = torch.get_rng_state()
        torch.manual_seed(1)
        with replay_rng(CPU) as replay:
            torch.rand(4)
            replay.rewind()
            torch.rand(second_pass)
        assert torch.equal(torch.get_rng_state(), after_one)
