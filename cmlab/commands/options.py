"""How the words of a command are read into its options: by tyro, which prints its own errors and names the nearest option.

The names that an option offers are those of a registry, read when the words are: a module of one's own may have added some.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ..base.files import user_path
from ..base.registry import DATASETS, SAMPLERS, Registry
from ..base.suggest import unknown

CALLED = {"free": "mask"}  # options that have another name than the parameter they stand for


def one_of(registry: Registry[Any], fact: str = "", help: str | None = None) -> Any:
    """For `Annotated`: an option whose value is a name of ``registry``, or one of those that a record names as its ``fact``.

    None stands for nothing said.
    """

    def kind() -> Any:
        texts = registry.texts()
        names = [name for text in texts.values() for name in text.facts.get(fact, ())] if fact else texts
        return Literal[tuple(names)] | None  # pyright: ignore

    return tyro.conf.arg(constructor_factory=kind, help=help)


# Options that several commands have, each with its help.
_ABOUT_STEPS = """solver steps; by default 18 for a diffusion model, 1 for a consistency model. Where the checkpoint keeps searched
levels for two steps, two steps take those."""
_ABOUT_SIGMAS = "noise levels in place of steps, decreasing, such as 80 0.8 ('cmlab search' finds good ones)."
_ABOUT_SAMPLER = "onestep or multistep for consistency models, any other for diffusion models; by default multistep and heun."
_ABOUT_GUIDANCE = """weight of guidance without a classifier, for diffusion models trained with --label-dropout: 1 is none, larger
ones are nearer to the class and cost two evaluations a call. By default what the checkpoint says ('cmlab info')."""
_ABOUT_PRECISION = """in what the network computes; samplers keep their state in float64. "auto" is bf16 for pictures where the
device computes in it, else float32. bf16 moved a fifth to a third of the bundled models' pixels, mostly by one level of 256."""
Checkpoint = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT", help="a bundled name (see 'cmlab info') or a path.")
]
Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
Device = Annotated[str, tyro.conf.arg(help='"auto" takes a GPU where there is one.')]
Steps = Annotated[int | None, tyro.conf.arg(help=_ABOUT_STEPS)]
Sigmas = Annotated[tuple[float, ...] | None, tyro.conf.arg(help=_ABOUT_SIGMAS)]
Guidance = Annotated[float | None, tyro.conf.arg(help=_ABOUT_GUIDANCE)]
InPrecision = Annotated[Literal["auto", "float32", "bf16", "fp16"], tyro.conf.arg(help=_ABOUT_PRECISION)]
Compiled = Annotated[bool, tyro.conf.arg(help="let torch compile the network: slow to start, then faster.")]
Sampler = Annotated[str | None, one_of(SAMPLERS, help=_ABOUT_SAMPLER)]


def parse(kind: Any, words: list[str], prog: str, default: Any = None, *, first: str = "", others: bool = False) -> Any:
    """The options of the dataclass ``kind`` that ``words`` say, the rest as in ``default``, an instance.

    For --help, and for words that are wrong, tyro prints what is to be said and raises SystemExit.

    Args:
        first: what the help says before the docstring; behind it stand the names of the registries in ``kind.lists``, of some
            kinds where these are named behind a registry.
        others: return the options and the words that are none of them, which are errors otherwise.
    """
    parts = [first, inspect.cleandoc(kind.__doc__).partition("\nArgs:")[0].strip()]
    for registry, *kinds in getattr(kind, "lists", ()):
        records = (record for record in registry.texts().values() if not kinds or record.kind in kinds)
        names = (f"  {record.name}: {record.help or record.label}" for record in records)
        parts.append("\n".join([f"{registry.kind.capitalize()}s:", *names]))
    more = {} if default is None else {"default": default, "config": (tyro.conf.AvoidSubcommands,)}
    text = "\n\n".join(filter(None, parts))
    return tyro.cli(kind, args=words, prog=prog, description=text, registry=_RULES, return_unknown_args=others, **more)


def check_taken(registry: Mapping[str, Callable[..., Any]], name: str, given: Collection[str]) -> list[inspect.Parameter]:
    """The parameters of ``registry[name]`` behind the first, which is no option; refuses what of ``given`` is none of them."""
    takes = {other: list(inspect.signature(make).parameters.values())[1:] for other, make in registry.items()}
    known = [p.name for p in takes[name]]
    for option in given:
        users = [other for other, parameters in takes.items() if option in (p.name for p in parameters)]
        if option not in known and users:
            raise ValueError(f"--{CALLED.get(option, option)} belongs to {' and '.join(users)}; {name} does not use it")
        if option not in known:
            raise ValueError(unknown(f"parameter of {name}", option, known))
    return takes[name]


_RULES = ConstructorRegistry()


@_RULES.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Numbers: what is none is refused in plain words."""
    if info.type not in (int, float):
        return None
    kind: type = info.type

    def read(words: list[str]) -> int | float:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"it takes a {'whole ' * (kind is int)}number, got {words[0]!r}") from None

    return PrimitiveConstructorSpec(1, kind.__name__.upper(), read, lambda v: type(v) in (int, kind), lambda v: [str(v)])


@_RULES.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Paths, "~" being the home folder."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(1, "PATH", lambda words: user_path(words[0]), lambda v: isinstance(v, Path), lambda v: [str(v)])


@_RULES.primitive_rule
def _or_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """``T | None``: read as a T, so that the help and the errors speak of T alone; the word None is None."""
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if len(kinds) != 1 or NoneType not in get_args(info.type):
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
        is_instance=lambda v: v is None or spec.is_instance(v),
        str_from_instance=lambda v: _Words(["None"] if v is None else spec.str_from_instance(v)),
    )


class _Words(list[str]):
    """What stands for a default value. tyro prints that of a `one_of` as it prints any object."""

    def __str__(self) -> str:
        return " ".join(self)


@dataclass(frozen=True)
class TrainCommand:
    """What 'cmlab train PRESET' takes: where to write, and the preset's fields."""

    lists: ClassVar = ((DATASETS,),)
    run: Annotated[Any, tyro.conf.arg(name="")]
    preset: Annotated[Any, tyro.conf.arg(name="")]
