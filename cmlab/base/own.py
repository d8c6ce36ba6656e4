"""A user's own module: imported before a command is read, so that what it registers is known by name."""

import importlib
import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from .files import user_path

IMPORTED: list[str] = []  # as they were given, for the commands that a message advises


def import_own(name: str) -> ModuleType:
    """Import a module by its name, from the working folder too, or a file by its path; the same one twice is imported once.

    Raises ValueError that says what is wrong, and where, for a module that is missing or fails.
    """
    path = None
    if name.endswith(".py") or os.sep in name:
        path = user_path(name, "file", way_out="--import takes a module's name or a .py file")
    elif str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = _of_file(path) if path else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the module does
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise ValueError(f"--import {name}: " + ("there is no such module or file" if missing else told(error, name))) from error
    if name not in IMPORTED:
        IMPORTED.append(name)
    return module


def _of_file(path: Path) -> ModuleType:
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and Path(loaded.__file__ or "").resolve() == path.resolve():
        return loaded
    known = None if loaded is not None else importlib.util.find_spec(name)
    if loaded is not None or (known is not None and Path(known.origin or "").resolve() != path.resolve()):
        raise ValueError(f"there is a module {name} already: give the file another name")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def told(error: BaseException, *names: str) -> str:
    """The error with its place: the last line of the modules ``names``, or else of all that is not Python's own machinery."""
    own = {Path(name).stem if name.endswith(".py") else name.partition(".")[0] for name in (names or IMPORTED)}
    place, theirs, frame = "", False, error.__traceback__
    while frame is not None:
        code, module = frame.tb_frame.f_code, frame.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        known = module in own
        if known or not (theirs or "importlib" in code.co_filename or Path(code.co_filename) == Path(__file__)):
            place, theirs = f" ({Path(code.co_filename).name}, line {frame.tb_lineno})", known
        frame = frame.tb_next
    return f"{type(error).__name__}: {error}{place}"


def command_line(*words: str) -> str:
    """'cmlab WORDS' as a shell takes it, with the modules of one's own that this process was told to import."""
    join = shlex.join if os.name == "posix" else subprocess.list2cmdline
    return join(["cmlab", *(word for name in IMPORTED for word in ("--import", name)), *words])
