"""``cmlab lab``: the lessons in JupyterLab."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..base.files import beside, user_path

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class LabOptions:
    """Copy the lessons into a folder, where they are yours to change, and open JupyterLab on it.

    Args:
        folder: where the lessons go. Files that are there already stay as they are.
        overwrite: replace files there that differ from this version's lessons because they were run, edited, or are older.
        open: open JupyterLab. --no-open only copies the lessons.
        browser: open a browser, too. --no-browser only prints the address.
        port: port that JupyterLab listens on; by default 8888, or the next free one.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]")] = Path("lessons")
    overwrite: bool = False
    open: bool = True
    browser: bool = True
    port: int | None = None


def lab(o: LabOptions) -> None:
    """Copy the lessons and run JupyterLab on them until it is shut down; raises ImportError where it is not installed."""
    if o.open:
        try:
            from jupyterlab.labapp import LabApp
        except ImportError as error:
            way = "pip install 'cmlab[lab]', or copy them only, with --no-open"
            raise ImportError(f"the lessons need JupyterLab: {way}") from error
    folder = user_path(o.folder)
    copy_lessons(folder, o.overwrite)
    if o.open:
        words = [str(folder), *([] if o.browser else ["--no-browser"]), *([] if o.port is None else [f"--port={o.port}"])]
        # Jupyter does not start for root without this word, and in a container one is root.
        words += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        LabApp.launch_instance(words)


def lesson_files() -> list[Path]:
    """The lessons and what stands beside them: inside the package if it came as a wheel, else in the clone.

    Raises ValueError where they are in neither place.
    """
    for folder in (PACKAGE / "lessons", PACKAGE.parent / "notebooks"):
        if lessons := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
            return [*lessons, *(folder / name for name in ("README.md", "derivations.md", "eighty_lines.py"))]
    raise ValueError("this installation of cmlab has no lessons: install the wheel again, or work in a clone")


def copy_lessons(folder: Path, overwrite: bool = False) -> None:
    """Copy the lessons into ``folder`` and say so. A file there that differs is kept, or replaced if ``overwrite``, and named."""
    lessons = lesson_files()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the lessons")
    missing = [path for path in lessons if not (folder / path.name).exists()]
    changed = [path for path in lessons if path not in missing and (folder / path.name).read_bytes() != path.read_bytes()]
    for path in [*missing, *(changed if overwrite else [])]:
        with beside(folder / path.name) as part:
            shutil.copyfile(path, part)
    names = ", ".join(path.name for path in changed)
    print(f"{folder}: {len(missing)} files copied, {len(lessons) - len(missing)} were there")
    if changed and overwrite:
        print(f"replaced by the lessons of this version: {names}")
    elif changed:
        print(f"kept, though they differ from the lessons of this version (--overwrite replaces them): {names}")
