"""'cmlab edit': change a picture with a consistency model."""

import ast
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from ..base.files import new_file, user_path, write_png
from ..base.registry import EDITS
from .options import Checkpoint, InPrecision, check_taken, one_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EditOptions:
    """Edit a picture with a consistency model; the result is original, what is known, and result side by side.

    Args:
        task: what to do.
        image: file of your own picture, a PNG or JPEG of exactly the size and colours that the model makes (8 x 8 pixels for the
            digits, 32 x 32 for CIFAR-10), cut and resized before; by default number 'index' of the bundled ones: digits, or
            examples of CIFAR-10.
        index: which of the bundled pictures to edit when no image is given.
        mask: for inpaint: centre (the default), left, right, top, bottom, random, or a picture whose bright pixels are to be
            generated.
        patch: for super_resolve: side of the blocks whose mean is kept.
        sigma: for denoise and stroke: standard deviation of the noise that is added to the picture, in units of [-1, 1].
        steps: for inpaint, colorize, super_resolve: number of noise levels.
        draws: for colorize: colourings of which the result is the mean; by default 4, nearer to the truth than 1, less varied.
        set: further parameters of the task's function, such as fill=-1 of inpaint: NAME=VALUE, several of them with blanks.
        label: class of the picture, its name or its number; by default a bundled one's own, or the likeliest for a given one.
        n: number of results, side by side: result k has the seed + k.
        seed: seed of the noise.
        out: picture to write.
        overwrite: replace that file.
    """

    checkpoint: Checkpoint
    lists: ClassVar = ((EDITS,),)
    task: Annotated[str, tyro.conf.Positional, one_of(EDITS)]
    image: Path | None = None
    index: int | None = None
    mask: str | None = None
    patch: int | None = None
    sigma: float | None = None
    steps: int | None = None
    draws: int | None = None
    set: tuple[str, ...] = ()
    label: str | None = None
    n: int = 1
    seed: int = 0
    out: Path = Path("edit.png")
    overwrite: bool = False
    precision: InPrecision = "float32"


def edit(o: EditOptions) -> None:
    """Run 'cmlab edit'."""
    import torch

    from ..editing import apply_edit, edit_of
    from ..methods.classify import likeliest_label
    from ..noise import seeds_from
    from ..plots.figures import edit_picture
    from ..training.presets import class_names
    from .common import class_number, labels, load

    arguments = _arguments(o)
    if not 1 <= o.n <= 64:
        raise ValueError(f"--n must lie in 1..64, got {o.n}")
    if o.image is not None and o.index is not None:
        raise ValueError("--index chooses a bundled picture: leave it out when --image is given")
    model, meta, _ = load(o.checkpoint, precision=o.precision)
    if len(model.shape) != 3:
        raise ValueError(f"{o.checkpoint} makes points, not pictures: choose an image model such as digits-color-cd")
    if not model.traits.consistency:
        raise ValueError(f"{o.checkpoint} is a diffusion model: edits need a consistency model such as digits-color-cd")
    channels, *size = model.shape
    if o.image is None:
        original, label = _bundled(model, o.index or 0, class_names(meta))
    else:
        original, label = read_image(o.image, channels, size), None
    asked = class_number(o.label, model, meta)
    label = label if asked is None else asked
    if label is None and model.classes:
        label = int(likeliest_label(model, original, model.classes))
    if "free" in arguments:
        arguments["free"] = _mask(arguments["free"], size, o.seed)
    task = edit_of(o.task, original.expand(o.n, *model.shape), torch.Generator().manual_seed(o.seed), **arguments)
    label = labels(model, label, 0, o.n)
    target = new_file(o.out, o.overwrite)
    result = apply_edit(model, task, seeds_from(o.seed, o.n), label=label)
    write_png(target, edit_picture(original, task.degraded, result))
    difference = float((task.project(result) - result).abs().max())
    print(f"{target}: original, known, result. Largest change of what was kept: {difference:.1e}")


def _arguments(o: EditOptions) -> dict[str, Any]:
    """What the options say to the task's function; ``free`` is still a name or a path.

    Raises ValueError for an option that the function has no parameter for, and where one is missing.
    """
    asked = {"free": o.mask, "patch": o.patch, "sigma": o.sigma, "steps": o.steps, "draws": o.draws}
    given = {name: value for name, value in asked.items() if value is not None}
    for pair in o.set:
        name, there, value = pair.partition("=")
        if not there:
            raise ValueError(f"--set takes NAME=VALUE, got {pair!r}")
        with suppress(ValueError, SyntaxError):  # a number, True or False, a tuple; or else the text itself
            value = ast.literal_eval(value)
        given[name] = value
    for parameter in check_taken(EDITS, o.task, given):
        if parameter.name == "free":
            given.setdefault("free", "centre")
        elif parameter.default is parameter.empty and parameter.name not in given:
            raise ValueError(f"{o.task} needs a value for {parameter.name}: say --set {parameter.name}=VALUE")
    return given


def _bundled(model: Any, index: int, names: tuple[str, ...]) -> tuple["Tensor", int | None]:
    """Bundled picture number ``index`` of the model's size (1, C, H, W), and what the model calls its class, if it does."""
    import torch

    from ..data import DATASETS, load_images

    bundled = (load_images(name) for name in DATASETS.of_kind("images"))
    data = next((data for data in bundled if tuple(data.shape) == model.shape), None)
    if data is None:
        raise ValueError(f"no bundled picture fits {model.shape}: pass --image FILE")
    if not 0 <= index < len(data):
        raise ValueError(f"--index must lie in 0..{len(data) - 1}, got {index}")
    label = None
    if data.label is not None:
        own = data.class_names[int(data.label[index])]
        label = names.index(own) if own in names else None
    return data.take(torch.tensor([index])), label


def read_image(path: Path, channels: int, size: list[int], any_mode: bool = False) -> "Tensor":
    """A picture file as (1, channels, H, W) in [-1, 1]; raises ValueError unless it is a picture of this size and mode."""
    from ..data.pixels import read_picture

    x, changes = read_picture(path, (channels, *size))
    refused = [c for c in changes if not (any_mode and c.startswith("converted"))]
    if refused:
        raise ValueError(f"{path} does not fit the model, it would have to be {' and '.join(refused)}: do that first")
    return x


def _mask(name: str, size: list[int], seed: int) -> "Tensor":
    from .. import editing

    if name in editing.MASKS:
        return editing.preset_mask(name, size, seed)
    if not (path := user_path(name)).is_file():
        raise ValueError(f"--mask {name!r} is neither a file nor one of {', '.join(editing.MASKS)}")
    return (read_image(path, 1, size, any_mode=True) > 0).float()
