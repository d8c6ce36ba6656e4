"""torch's global generators, which weight initialisation and dropout draw from: seeded for one block, and replayed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

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


class replay_rng(ExitStack):
    """Records the random state of the CPU and of ``device``; ``rewind`` goes back to it for a second pass.

    Online and target network must drop the same units (CM code, section 6); the official codes save only the CPU's or only
    CUDA's state. After the block the state is what the first pass left behind, however much the second one drew.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._gpus = [device] if device.type == "cuda" else []
        self._before = torch.get_rng_state(), [torch.cuda.get_rng_state(gpu) for gpu in self._gpus]

    def rewind(self) -> None:
        self.enter_context(torch.random.fork_rng(self._gpus))  # puts back the present state at the block's end
        torch.set_rng_state(self._before[0])
        for gpu, state in zip(self._gpus, self._before[1], strict=True):
            torch.cuda.set_rng_state(state, gpu)
