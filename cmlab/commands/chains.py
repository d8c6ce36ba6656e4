"""Which chains of presets there are, and what 'cmlab train CHAIN' takes; told without torch."""

from dataclasses import dataclass

from ..base.suggest import unknown
from .options import parse


@dataclass(frozen=True)
class Chain:
    """A preset of a diffusion model and those of the consistency models that are made from it."""

    teacher: str
    students: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.teacher, *self.students)


CHAINS = {
    "cifar10-small-chain": Chain("cifar10-small-edm", ("cifar10-small-cd", "cifar10-small-ict")),
    "digits-color-chain": Chain("digits-color-edm", ("digits-color-cd", "digits-color-ict")),
}


@dataclass(frozen=True)
class ChainOptions:
    """Measures all of them, and writes NAME.safetensors with a card NAME.md for each. Stopped or killed at any point, the same
    command goes on; what is finished is left alone.

    Every other option is one of 'cmlab train PRESET', for all stages: --out DIR, --steps 100, --network.channels 8. With the
    stage's method in front it is for that stage alone: --edm.steps 100.

    Args:
        n: samples that figures are measured on.
        search: samples that the noise level of two steps is searched on.
    """

    n: int = 10_000
    search: int = 2000


def chain_options(name: str, words: list[str]) -> tuple[ChainOptions, list[str]]:
    """The chain's own options, and the words that are its stages'. Raises ValueError for an unknown name and for small numbers."""
    if name not in CHAINS:
        raise ValueError(unknown("chain", name, CHAINS))
    first, *students = CHAINS[name].names
    what = f"Trains {first}, then {' and '.join(students)} from it."
    options, others = parse(ChainOptions, words, f"cmlab train {name}", first=what, others=True)
    if min(options.n, options.search) < 10:
        raise ValueError(f"--n and --search must be at least 10, got {options.n} and {options.search}")
    return options, others
