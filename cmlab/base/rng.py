"""torch's global generators, which weight initialisation and dropout draw from: seeded for one block, and replayed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_GLOBAL_GENERATOR = threading.RLock()


@contextmanager
def global_seed(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a block on torch's global generators seeded with ``seed``, and put them back as they were.

    Weight initialisation and dropout know no other source. Threads take turns: two models built at once get their own weights.
    """
    device = torch.device(device)
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):  # else it is the current device that is seeded
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def replay_rng(device: torch.device) -> Iterator["Replay"]:
    """Record the random state of the CPU and of ``device``; ``replay.rewind()`` goes back to it.

    Online and target network must drop the same units (CM code, section 6); the official codes save only the CPU's or only
    CUDA's state. On leaving, the state is what one pass would have left behind.
    """
    replay = Replay(device)
    try:
        yield replay
    finally:
        replay.finish()


class Replay:
    def __init__(self, device: torch.device):
        self._device = device if device.type == "cuda" else None
        self._before, self._after = self._state(), None

    def _state(self) -> tuple[Tensor, Tensor | None]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._device) if self._device else None

    def _set(self, state: tuple[Tensor, Tensor | None]) -> None:
        cpu, cuda = state
        torch.set_rng_state(cpu)
        if cuda is not None and self._device is not None:
            torch.cuda.set_rng_state(cuda, self._device)

    def rewind(self) -> None:
        self._after = self._after or self._state()
        self._set(self._before)

    def finish(self) -> None:
        # The second pass may draw less than the first (a target in eval mode, an oracle): its state must not stay behind.
        if self._after is not None:
            self._set(self._after)
