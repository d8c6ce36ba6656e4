"""What the app keeps on the disk for its visitors: pictures, and what one takes home of a run."""

import io
import json
import os
import shlex
import shutil
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.files import png_of, write_whole
from ..commands.options import CALLED
from ..formats import checkpoints
from . import view

MAX_FILES = 4000  # a few kB each
_WRITTEN: dict[Path, None] = {}
_WRITING = threading.Lock()


def kept(data: bytes, name: str) -> str:
    """The path of a file in gradio's cache, written once: gradio rewrites its own at every yield, while the browser reads them."""
    from gradio.processing_utils import hash_bytes

    path = Path(os.environ["GRADIO_TEMP_DIR"]) / hash_bytes(data) / name
    with _WRITING:
        _WRITTEN.pop(path, None)
        _WRITTEN[path] = None  # the newest comes last
        if not path.exists():
            write_whole(path, data)
        while len(_WRITTEN) > MAX_FILES:  # gradio's own clean-up does not know these files
            oldest = next(iter(_WRITTEN))
            del _WRITTEN[oldest]
            shutil.rmtree(oldest.parent, ignore_errors=True)
    return str(path)


def png(pixels: np.ndarray, name: str = "picture") -> str:
    """A picture as a file that downloads as ``name``."""
    return kept(png_of(pixels), f"{name}.png")


def spoken(path: str) -> str:
    """A checkpoint as a command names it: its name where that leads to it, else its path."""
    name = Path(path).stem
    return name if checkpoints.find(name).resolve() == Path(path).resolve() else path


def command(what: str, path: str, *words: str, **options: Any) -> str:
    """A line for the shell: ``cmlab WHAT CHECKPOINT WORDS --OPTION VALUE``; options that are None are left out."""
    options |= {"precision": view.PRECISION} if view.PRECISION != "float32" else {}
    said = [(f"--{CALLED.get(name, name)}", str(value)) for name, value in options.items() if value is not None]
    return shlex.join(["cmlab", what, spoken(path), *words, *(f"{flag}={value}" for flag, value in said)])


def take_home(name: str, pictures: Mapping[str, Any], settings: Mapping[str, Any], commands: Sequence[str] = ()) -> str:
    """An archive of pictures, by file name, and of a JSON with the settings and the commands that make the same pictures."""
    from .. import __version__

    told = {"cmlab": __version__, "settings": dict(settings), "commands": list(commands)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry, content in {**{n: png_of(p) for n, p in pictures.items()}, f"{name}.json": json.dumps(told, indent=1)}.items():
            archive.writestr(zipfile.ZipInfo(entry), content)  # without the time: the same run gives the same file
    return kept(file.getvalue(), f"{name}.zip")
