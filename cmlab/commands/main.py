"""The command line. ``cmlab --help`` lists its commands, each of which has a file here: its options, and what it does with them.

Every error is a line on stderr, or what tyro prints of a wrong option, and a non-zero exit. A command's file imports torch when
the options have been read: to import it takes seconds, and neither help nor a wrong option needs it.
"""

import importlib
import inspect
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from .. import __version__
from ..base.own import IMPORTED, import_own, told
from ..base.signals import Interrupted, answering, interrupt
from ..base.suggest import unknown
from .options import parse

_KNOWN_ERRORS = (ValueError, FloatingPointError, OSError, ImportError)
# What stands behind each command's name, and what it is for. COMMAND is the function `COMMAND` of the file COMMAND.py.
COMMANDS = {
    "train": ("PRESET", "train a preset and write a checkpoint"),
    "sample": ("CHECKPOINT", "draw samples into a picture or an .npz file"),
    "edit": ("CHECKPOINT TASK", "fill in, colour, sharpen or otherwise change a picture"),
    "evaluate": ("SOURCE", "how good samples are: of a checkpoint, or pictures in a folder or .npz"),
    "search": ("CHECKPOINT", "find the noise levels of multistep sampling"),
    "likelihood": ("CHECKPOINT", "bits per dimension that a diffusion model needs for its data"),
    "theory": ("EXPERIMENT", "measure a theorem of the paper"),
    "convert": ("SRC DST", "read checkpoints of OpenAI, NVlabs and diffusers, and write them for cmlab, diffusers or OpenAI"),
    "info": ("[CHECKPOINT]", "describe a checkpoint; without one, list presets, data sets and bundled checkpoints"),
    "app": ("", "serve the app: sample, interpolate, edit, train in the plane, in the browser"),
    "plane": ("", "write the plane as a page that needs no server: exact paths and trained models, to drag"),
    "lab": ("[DIR]", "copy the lessons into a folder and open them in JupyterLab"),
}


def usage() -> str:
    """What 'cmlab --help' prints."""
    lines = [f"  {f'{name} {takes}':24} {help}" for name, (takes, help) in COMMANDS.items()]
    return "\n".join([
        "usage: cmlab [--import MODULE_OR_FILE ...] COMMAND ...",
        "",
        *lines,
        "",
        "'cmlab COMMAND --help' explains the options, 'cmlab --version' tells the version. --import first runs a module or a",
        "file of your own: what it registers (samplers, edits, losses, networks, data sets) the commands then know by name.",
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that a message explains, 2 for wrong options, 130 when
    interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        while words and words[0].partition("=")[0] == "--import":
            option, given, what = words.pop(0).partition("=")
            if not given and not words:
                raise ValueError(f"{option} needs the name of a module or a file")
            import_own(what if given else words.pop(0))
        if not words or words[0] in ("-h", "--help"):
            print(usage())
            return 0 if words else 2
        if words[0] == "--version":
            print(f"cmlab {__version__}")
            return 0
        name = words.pop(0)
        if name not in COMMANDS:
            raise ValueError(unknown("command", name, COMMANDS))
        command = command_of(name)
        kind = options_of(command)
        return _execute(command, words if kind == list[str] else parse(kind, words, f"cmlab {name}"))
    except BrokenPipeError:  # the reader of our output has gone: nothing is wrong
        sys.stderr.close()
        return 0
    except _KNOWN_ERRORS as error:
        print(f"cmlab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except Exception as error:
        if not IMPORTED:
            raise
        print(f"cmlab: error: with --import {' '.join(IMPORTED)}: {' '.join(told(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cmlab: interrupted, nothing was written", file=sys.stderr)
        return 130
    except SystemExit as stop:  # tyro has printed its help, or what is wrong
        return int(stop.code or 0)


def command_of(name: str) -> Callable[[Any], None]:
    """The function that a name of COMMANDS stands for."""
    return getattr(importlib.import_module(f".{name}", __package__), name)


def options_of(command: Callable[[Any], None]) -> Any:
    """The type of what a command takes: a dataclass of options, or ``list[str]`` where it reads its words itself."""
    (parameter,) = inspect.signature(command).parameters.values()
    return parameter.annotation


def _execute(command: Callable[[Any], None], options: Any) -> int:
    """Run a command with its options; returns the exit status. Raises what a user can cause: _KNOWN_ERRORS."""
    try:
        with answering(interrupt, signal.SIGTERM):
            command(options)
    except Interrupted as stop:
        print(f"cmlab: {stop}", file=sys.stderr)
        return stop.code
    except (RuntimeError, MemoryError) as error:
        if not _memory_is_full(error):
            raise
        hint = "train with a larger --accumulate or a smaller --batch, sample with a smaller --n"
        raise ValueError(f"the memory of the device is full: {hint}") from error
    return 0


def _memory_is_full(error: Exception) -> bool:
    """Whether torch, numpy or Python got no memory. torch has a type for it on a GPU; on a CPU the words say it."""
    words = ("DefaultCPUAllocator", "std::bad_alloc", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(w in str(error) for w in words)


def run(*first: str) -> NoReturn:
    """The program ``cmlab``: its words, after ``first``, and its exit status."""
    status = main([*first, *sys.argv[1:]])
    if "torch" in sys.modules:
        from ..training.processes import leave

        leave(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
