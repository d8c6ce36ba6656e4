"""'cmlab sample': draw samples of a model into a picture or an .npz file."""

import math
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from ..base import text
from ..base.files import existing, new_file, write_png, write_whole
from ..base.registry import SAMPLERS
from .options import Checkpoint, Compiled, Device, Guidance, InPrecision, Sampler, Sigmas, Steps

if TYPE_CHECKING:
    import torch

BATCH = 256  # samples that are drawn at a time
SHOWN = 10_000  # samples that a .png shows at most, and ...
SHOWN_PIXELS = 2**26  # ... how many pixels


@dataclass(frozen=True)
class SampleOptions:
    """Draw samples from a checkpoint.

    Args:
        n: number of samples, drawn 256 at a time; a .png shows at most 10,000.
        seed: sample k has seed + k as its own seed, so it is the same picture in every batch.
        label: class of all samples, its name or its number; by default the classes in turn.
        out: file to write: .png (a grid, or a scatter plot for points) or .npz (arrays x, seeds, label).
        overwrite: replace that file.
    """

    lists: ClassVar = ((SAMPLERS,),)
    checkpoint: Checkpoint
    n: int = 16
    seed: int = 0
    steps: Steps = None
    sigmas: Sigmas = None
    sampler: Sampler = None
    guidance: Guidance = None
    label: str | None = None
    out: Path = Path("samples.png")
    overwrite: bool = False
    device: Device = "auto"
    precision: InPrecision = "float32"
    compile: Compiled = False


def sample(o: SampleOptions) -> None:
    """Run 'cmlab sample'."""
    import torch
    from tqdm import tqdm

    from ..base.device import choose_device
    from ..samplers import sample as draw
    from .common import class_number, labels, load, plan

    if o.out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {o.out}")
    if o.n < 1:
        raise ValueError(f"--n must be at least 1, got {o.n}")
    if not -(2**63) <= o.seed <= 2**63 - o.n:
        raise ValueError(f"the seeds from --seed {o.seed} on do not fit into 64 bits: choose a smaller one")
    device = choose_device(o.device)
    model, meta, about = load(o.checkpoint, device, o.guidance, o.precision, o.compile)
    sampler, steps, levels, chosen = plan(model, o.checkpoint, o, about)
    chosen_class = class_number(o.label, model, meta)
    target = new_file(o.out, o.overwrite)
    _check_room(o, model.shape)
    started = time.perf_counter()

    def batches() -> Iterator["torch.Tensor"]:
        with tqdm(total=o.n, unit=" samples", desc="sample", disable=None if o.n > BATCH else True) as bar:
            for start in range(0, o.n, BATCH):
                stop = min(start + BATCH, o.n)
                label, seeds = labels(model, chosen_class, start, stop, device), range(o.seed + start, o.seed + stop)
                yield draw(model, model.shape, seeds, sampler, steps, label=label, sigmas=levels, device=device).cpu()
                bar.update(stop - start)

    if target.suffix == ".npz":
        write_whole(target, lambda file: _write_npz(file, o, model, chosen_class, batches()))
        seconds = time.perf_counter() - started
    else:
        from ..plots.figures import picture_of

        x = torch.cat(list(batches()))
        seconds = time.perf_counter() - started
        write_png(target, picture_of(x, o.checkpoint))
    at = "" if not chosen else f" at the levels {text.levels(levels.tolist())}"
    print(f"{target}: {o.n} samples, {sampler} with {text.count(steps, 'step')}{at}, {seconds:.2f} s")


def _check_room(o: SampleOptions, shape: tuple[int, ...]) -> None:
    """Refuse more samples than a picture shows, or than the disk has room for."""
    if o.out.suffix == ".png":
        pixels = max(64, *shape[1:]) ** 2 if len(shape) == 3 else 0
        most = min(SHOWN, max(1, SHOWN_PIXELS // pixels)) if pixels else SHOWN
        if o.n > most:
            raise ValueError(f"a .png shows at most {most:,} samples of this model, not --n {o.n}: write them to --out FILE.npz")
        return
    needed, free = o.n * (4 * math.prod(shape) + 16), shutil.disk_usage(existing(o.out.parent)).free  # float32, and two int64
    if needed > free:
        room = f"{needed / 2**30:.1f} GiB and {o.out.parent} has {free / 2**30:.1f} GiB free"
        raise ValueError(f"{o.n} samples take {room}: choose a smaller --n")


def _write_npz(file: IO[bytes], o: SampleOptions, model: Any, label: int | None, batches: Iterator["torch.Tensor"]) -> None:
    """Arrays x, seeds and label as numpy.savez writes them, but batch by batch: the memory does not grow with their number."""
    import numpy as np
    import torch

    from .common import labels

    def spans() -> Iterator[range]:
        return (range(o.n)[start : start + BATCH] for start in range(0, o.n, BATCH))

    cpu, classes = torch.device("cpu"), ((0,), np.float64, ())
    if model.classes:
        classes = ((o.n,), np.int64, (labels(model, label, span.start, span.stop, cpu) for span in spans()))
    arrays = {
        "x": ((o.n, *model.shape), np.float32, (x.float() for x in batches)),
        "seeds": ((o.n,), np.int64, (np.arange(o.seed + span.start, o.seed + span.stop) for span in spans())),
        "label": classes,
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, (shape, kind, parts) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(kind))}
                np.lib.format.write_array_header_1_0(entry, header)
                for part in parts:
                    entry.write(np.asarray(part, kind).tobytes())
