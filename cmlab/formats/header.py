"""What a file says about itself: JSON in the metadata of a safetensors file, believed where it fits a schema.

There is one schema for checkpoints, checked where one is read and where one is written. It has the types, and the ranges that
memory depends on. Settings that no network or preconditioning can have are refused by their own classes.
"""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, ValidationError, create_model, model_validator
from pydantic_core import from_json
from safetensors import safe_open

from ..base.files import is_sparse
from ..base.text import printable
from ..data.sets import MAX_CLASSES

MAX_HEADER = 1 << 22  # bytes; the largest that ships has 60,000
MAX_PARTS = 50_000  # lists and objects, each of which costs far more memory than its two characters
MAX_NUMBERS = 1 << 22  # of one sample: 1182 x 1182 pixels in colour
STRICT = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

Text = Annotated[str, Field(max_length=10_000)]
Side = Annotated[int, Field(ge=1, le=MAX_NUMBERS)]
Value = Annotated[float, Field(allow_inf_nan=True)]  # measured, so it may be none
Pairs = Annotated[list[tuple[float, Value]], Field(min_length=1, max_length=10_000)]
Settings = Annotated[dict[str, Any], Field(max_length=1000)]


class HeaderError(ValueError):
    """A header that says what it cannot say: ``entry`` is the one that is wrong, "" for the whole of it."""

    def __init__(self, message: str, entry: str = ""):
        super().__init__(message)
        self.entry = entry


class Part(BaseModel):
    """Known entries have their types, others are as they are."""

    model_config = STRICT


class Figure(Part):
    """A row of `evaluation.report.Report`."""

    name: Text
    value: Value
    error: Value | None = None
    floor: Value | None = None
    floor_error: Value | None = None
    same_n: Value | None = None
    teacher: Value | None = None
    teacher_error: Value | None = None


class Measured(Part):
    """An `evaluation.report.Report`."""

    samples: Text
    features: Text
    reference: Text
    floor_n: NonNegativeInt
    figures: Annotated[list[Figure], Field(max_length=1000)]


class TwoSteps(Part):
    """The levels that a search found for two steps of `multistep`."""

    sigmas: Annotated[list[PositiveFloat], Field(min_length=1, max_length=100)]
    evaluations: NonNegativeInt = 0
    n: NonNegativeInt = 0


class Options(Part):
    """The configuration of a run, see `training.states.flatten`."""

    precision: Text = ""


class About(Part):
    """What a training run says of its model; anything else may stand beside it."""

    preset: Text = ""
    data: Text = ""
    data_title: Text = ""
    command: Text = ""
    seconds: float = 0
    device: Text = ""
    machine: Text = ""
    threads: NonNegativeInt = 0
    precision: Text = ""
    init: Text = ""
    teacher: Text = ""
    licence: Text = ""
    sampler: Text = ""
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    class_names: Annotated[list[Text], Field(max_length=MAX_CLASSES)] = []
    options: Options = Options()
    quality: dict[str, Any] = {}
    measured: Annotated[dict[str, Measured], Field(max_length=1000)] = {}
    loss_curve: Pairs | None = None
    fd_curve: Pairs | None = None
    two_steps: TwoSteps | None = None

    @model_validator(mode="after")
    def _says_steps(self) -> "About":
        if self.sampler and self.steps is None:
            raise ValueError("a sampler without the number of its steps")
        return self


class Header(Part):
    """All of a checkpoint's header."""

    format: Literal[1]
    network: Text
    config: Settings
    precond: Settings
    shape: Annotated[list[Side], Field(min_length=1, max_length=4)]
    classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)]
    drops_labels: bool = False
    guidance: Annotated[float, Field(ge=0, le=100)] = 1
    about: About | None = None

    @model_validator(mode="after")
    def _is_of_ordinary_size(self) -> "Header":
        if math.prod(self.shape) > MAX_NUMBERS:
            raise ValueError(f"samples of shape {self.shape} have more than {MAX_NUMBERS:,} numbers")
        if self.drops_labels and not self.classes:
            raise ValueError("drops_labels without classes")
        return self


class ClassifierAbout(Part):
    """What `cmlab train ...-classifier` says of a classifier."""

    seconds: float = 0
    accuracy: Annotated[dict[str, float], Field(max_length=1000)] = {}
    class_names: Annotated[list[Text], Field(max_length=MAX_CLASSES)] | None = None


class ClassifierHeader(Part):
    """All of a classifier's header."""

    config: Settings
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    about: ClassifierAbout


def read_text(path: Path, key: str) -> str | None:
    """What ``key`` stands for in the metadata of a safetensors file, None for nothing.

    Raises HeaderError for a header of absurd length and a file of holes, and what safetensors raises for a file that is damaged.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if MAX_HEADER < size < path.stat().st_size:
            raise HeaderError(f"its header has {size:,} bytes, more than {MAX_HEADER:,}")
    if is_sparse(path):
        raise HeaderError("it is mostly a hole that was never written")
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get(key)


def parse(text: str | bytes, finite: bool = False) -> dict[str, Any]:
    """A JSON object of ordinary depth, ``finite`` without NaN and infinities; raises HeaderError for anything else."""
    try:
        value = from_json(text, allow_inf_nan=not finite)
    except ValueError as error:
        raise HeaderError(f"no JSON text: {printable(str(error), 200)}") from error
    if not isinstance(value, dict):
        raise HeaderError(f"a {type(value).__name__} where entries should be")
    return value


def check(text: str, kind: type[BaseModel] = Header) -> None:
    """Raise HeaderError, which names an entry that does not fit, unless the JSON ``text`` is one of ``kind``."""
    if (parts := text.count("[") + text.count("{")) > MAX_PARTS:
        raise HeaderError(f"it has {parts:,} lists and objects, more than {MAX_PARTS:,}")
    try:
        kind.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)
        first = next((one for one in wrong if one["loc"] == ("format",)), wrong[0])
        entry = "no JSON text" if first["type"] == "json_invalid" else ".".join(map(str, first["loc"])) or "it"
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Invalid JSON: ")
        given = f", got {first['input']!r:.60}" if isinstance(first["input"], str | int | float | None) else ""
        raise HeaderError(printable(f"{entry:.80}: {reason}{given}"), entry) from error


def make(kind: Any, settings: dict[str, Any]) -> Any:
    """The dataclass ``kind`` of ``settings``, which have the types of its fields and no others; lists become tuples.

    Raises HeaderError, and what the class itself raises for values that it cannot have.
    """
    hints = get_type_hints(kind, include_extras=True)
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=())
    known: dict[str, Any] = {f.name: (hints[f.name], None) for f in fields(kind) if f.init}
    check(json.dumps(settings), create_model(kind.__name__, __config__=strict, **known))
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})
