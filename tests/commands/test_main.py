"""What `cmlab` does with errors that no command foresees."""

import numpy as np
import pytest
import torch

from cmlab.commands.main import main


def bad_alloc():
    """What torch passes on where C++ found no memory."""
    raise RuntimeError("std::bad_alloc")


@pytest.mark.parametrize(
    "ask",
    [lambda: torch.empty(1 << 60), lambda: torch.empty(1 << 62), lambda: np.zeros(1 << 50), lambda: bytearray(1 << 60), bad_alloc],
    ids=["torch", "overflow", "numpy", "python", "c++"],
)
def test_a_full_memory_is_said_in_words(ask, monkeypatch, capsys):
    """Issue 16, 11: on a CPU each library has its own error for it. Other errors of the same type stay what they are."""
    monkeypatch.setattr("cmlab.commands.sample.sample", lambda o: ask())
    monkeypatch.setattr("cmlab.commands.main.options_of", lambda command: list[str])
    assert main(["sample", "x"]) == 1
    assert "the memory of the device is full: train with a larger --accumulate" in capsys.readouterr().err
    monkeypatch.setattr("cmlab.commands.sample.sample", lambda o: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["sample", "x"])
