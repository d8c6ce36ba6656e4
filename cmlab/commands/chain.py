"""'cmlab train NAME-chain': the options of a chain of presets, dealt out to its stages."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base.own import command_line
from ..base.presets import CHAINS
from ..base.registry import LOSSES
from ..base.suggest import unknown
from .options import parse
from .train import preset_command

if TYPE_CHECKING:
    from ..training.chain import Stage

OWN = ("--init", "--teacher", "--resume", "--no-resume", "--overwrite")  # the chain's own affair


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


def run(name: str, args: list[str]) -> None:
    """Run 'cmlab train NAME ...' for a chain: begin, go on, or find everything finished. Raises ValueError for an unknown name."""
    if name not in CHAINS:
        raise ValueError(unknown("chain", name, CHAINS))
    first, *students = CHAINS[name]
    what = f"Trains {first}, then {' and '.join(students)} from it."
    o, words = parse(ChainOptions, args, f"cmlab train {name}", first=what, others=True)
    if min(o.n, o.search) < 10:
        raise ValueError(f"--n and --search must be at least 10, got {o.n} and {o.search}")
    from ..training import chain

    chain.run(name, stages_of(name, words), o.n, o.search, command_line("train", name, *args))


def stages_of(name: str, words: list[str]) -> "list[Stage]":
    """The stages of the chain ``name``, the teacher first; raises ValueError for options that a stage does not have."""
    from ..training.chain import Stage
    from ..training.presets import get_preset

    out: list[Stage] = []
    for stage, own in _dealt_out(CHAINS[name], words).items():
        preset = get_preset(stage)
        if out:
            own = own + [w for role in ("init", "teacher") if getattr(preset, role) for w in (f"--{role}", str(out[0].file))]
        command = preset_command(stage, own)
        out.append(Stage(stage, command.preset, command.run, [stage, *own]))
    for field in ("out", "device"):
        if len({getattr(stage.run, field) for stage in out}) > 1:
            raise ValueError(f"all stages of {name} have one --{field}: give it without a method in front")
    if len({stage.preset.data_name for stage in out}) > 1:
        raise ValueError(f"all stages of {name} learn the same data: give --data without a method in front")
    return out


def _dealt_out(stages: tuple[str, ...], words: list[str]) -> dict[str, list[str]]:
    """Each stage's own words: --METHOD.FIELD belongs to one, every other option to all."""
    methods = {stage.rpartition("-")[2]: stage for stage in stages}
    out: dict[str, list[str]] = {stage: [] for stage in stages}
    whose = stages
    for word in words:
        if word.startswith("--"):
            method, dot, field = word[2:].partition(".")
            if dot and method in LOSSES and method not in methods:
                raise ValueError(f"{word}: the stages are {', '.join(methods)}, and --METHOD.FIELD belongs to one of them")
            whose = (methods[method],) if dot and method in methods else stages
            word = f"--{field}" if dot and method in methods else word
            if word.partition("=")[0] in OWN:
                raise ValueError(f"{word}: a chain decides that itself and always goes on; to begin anew name another --out")
        for stage in whose:
            out[stage].append(word)
    return out
