"""Files: written whole or not at all, and paths as a person gives them."""

import errno
import io
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

PART = ".part"  # how files end that are being written
SUFFIX = ".safetensors"  # of models, classifiers and states
RUNS = Path("runs")  # where training writes, and where a name is looked for


@contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """A new path beside ``path`` to write to. When the block ends, the file is flushed to the disk and takes the place of ``path``.

    Where the block raises, it is removed, and what was at ``path`` stays. Its name is its own, so several processes may write one
    file at once: the last to end wins, and nobody ever reads half a file. Folders that are missing are made. Raises OSError where
    nothing can be written, and where ``path`` is a folder or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "a folder or a device is in its place", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name[:100]}.{secrets.token_hex(4)}{PART}")
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode  # as the user wants new files; some libraries keep theirs to themselves
        yield part
        os.chmod(part, mode)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # so that the rename never outruns what it renames
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    with suppress(OSError):  # the rename itself; some systems cannot flush a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: str | Path, content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write ``content``, or let it write into the open file, by way of `beside`; returns the path."""
    with beside(path) as part, open(part, "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
    return Path(path)


def png_of(picture: Any) -> bytes:
    """A uint8 picture (H, W) or (H, W, 3), or a figure of matplotlib, as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    (getattr(picture, "savefig", None) or Image.fromarray(picture).save)(file, format="png")
    return file.getvalue()


def write_png(path: str | Path, picture: Any) -> Path:
    """Write what `png_of` takes."""
    return write_whole(path, png_of(picture))


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """While it lasts no other process holds the lock ``path``: a folder, or a file that is there as long as it is held.

    Gives False where another process holds it, unless it may ``wait`` for that. A killed process lets go. Where there are no locks
    (Windows, some file systems), or where nothing can be written, everybody gets one.
    """
    handle = _lock(path, wait)
    try:
        yield handle is not None
    finally:
        if isinstance(handle, int):
            if not path.is_dir():
                path.unlink(missing_ok=True)  # while it is held: who waits for this file finds that it has gone, and tries again
            os.close(handle)


def _lock(path: Path, wait: bool) -> int | Literal["free"] | None:
    """The open file that holds the lock; "free" where there are no locks, None where another process has it."""
    try:
        import fcntl
    except ImportError:
        return "free"
    while True:
        try:
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return "free"
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except OSError as error:
            os.close(handle)
            return None if isinstance(error, BlockingIOError) else "free"
        os.close(handle)  # another process has removed this file in the meantime


def own_file(name: str | Path) -> Path | None:
    """The file that a name or a path leads to, with ``SUFFIX`` or without, here or in ``runs/``; None where there is none."""
    bare = str(user_path(name)).removesuffix(SUFFIX)
    folders = (Path(), RUNS, Path("..") / RUNS)  # notebooks run one folder below
    return next((own for folder in folders if bare and (own := folder / f"{bare}{SUFFIX}").is_file()), None)


def user_path(
    given: str | Path, kind: Literal["any", "file"] = "any", *, what: str = "file", way_out: str = "check the path"
) -> Path:
    """A path as a person gives it: a leading ``~`` is the home folder, and a relative path starts in the working folder.

    Args:
        kind: "file" must be there; "any" may be missing, or a folder.
        what: what the path should lead to, for the message.
        way_out: what a person should do about a wrong path.

    Raises FileNotFoundError where nothing is there, and ValueError for a folder where a file is wanted.
    """
    path = Path(given)
    with suppress(RuntimeError):  # ~name where nobody is called that: a file may be
        path = path.expanduser()
    if kind == "file" and not path.exists():
        raise FileNotFoundError(f"no {what} at {path}: {way_out}")
    if kind == "file" and path.is_dir():
        raise ValueError(f"{path} is a folder, not a {what}: {way_out}")
    return path


def is_sparse(path: str | Path) -> bool:
    """Whether most of a file is holes: zeros that take no room on the disk, and as much memory as anything else."""
    path, whole, at, held = Path(path), Path(path).stat().st_size, 0, 0
    if not hasattr(os, "SEEK_HOLE") or whole < 1 << 20:
        return False
    with open(path, "rb") as file:
        try:
            while at < whole and 2 * held < whole:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                held += at - start
        except OSError as error:
            return error.errno == errno.ENXIO  # no more data; other systems cannot tell
    return 2 * held < whole


def existing(folder: Path) -> Path:
    """``folder``, or the nearest one above it that is there."""
    return next((known for known in (folder, *folder.parents) if known.exists()), folder)


def new_file(path: Path, overwrite: bool, option: str = "--out") -> Path:
    """Refuse, before any work is done, to write over a file or where nothing can be written; ``option`` is what names it.

    Returns the path, whose folder is made when it is written to. Raises ValueError.
    """
    if path.exists() and (path.is_dir() or not overwrite):
        way = f"exists: choose another {option}, or pass --overwrite"
        raise ValueError(f"{path} {way if path.is_file() else 'is a folder'}")
    folder = existing(path.parent)
    try:
        with tempfile.TemporaryFile(dir=folder):  # os.access says yes to root everywhere
            pass
    except OSError as error:
        raise ValueError(f"cannot write in the folder {folder} ({error.strerror}): choose another {option}") from error
    return path
