"""The command line: ``cmlab train | sample | edit | evaluate | search | likelihood | theory | convert | info | app | lab``.

Every error is one line on stderr and a non-zero exit. What a command does is imported when its options have been read: to import
torch takes seconds, and neither help nor a wrong option needs it.
"""

import sys
from typing import Any, NoReturn

from .. import __version__
from ..base.suggest import unknown
from .app import AppOptions
from .lab import LabOptions
from .options import (
    ConvertOptions,
    EditOptions,
    EvaluateOptions,
    InfoOptions,
    LikelihoodOptions,
    SampleOptions,
    SearchOptions,
    TheoryOptions,
    parse,
)

_KNOWN_ERRORS = (ValueError, FloatingPointError, OSError, ImportError)
# What each command's words are read into; those of "train" depend on the preset, which is the first of them.
COMMANDS: dict[str, Any] = {
    "train": None,
    "sample": SampleOptions,
    "edit": EditOptions,
    "evaluate": EvaluateOptions,
    "search": SearchOptions,
    "likelihood": LikelihoodOptions,
    "theory": TheoryOptions,
    "convert": ConvertOptions,
    "info": InfoOptions,
    "app": AppOptions,
    "lab": LabOptions,
}
_USAGE = """usage: cmlab COMMAND ...

  train PRESET      train a preset and write a checkpoint
  sample CHECKPOINT draw samples into a picture or an .npz file
  edit CHECKPOINT TASK   inpaint, colorize, super_resolve, stroke or denoise a picture
  evaluate SOURCE   how good samples are: of a checkpoint, or pictures in a folder or .npz
  search CHECKPOINT find the noise levels of multistep sampling
  likelihood CHECKPOINT  bits per dimension that a diffusion model needs for its data
  theory EXPERIMENT measure a theorem of the paper: thm1, thm2 or variance
  convert SRC DST   read checkpoints of OpenAI, NVlabs and diffusers, and write them for cmlab, diffusers or OpenAI
  info [CHECKPOINT] describe a checkpoint; without one, list presets, data sets and bundled checkpoints
  app               serve the app: sample, interpolate, edit, train in the plane, in the browser
  lab [DIR]         copy the lessons into a folder and open them in JupyterLab

'cmlab COMMAND --help' explains the options, 'cmlab --version' tells the version."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that a message explains, 130 when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"cmlab {__version__}")
        return 0
    name, words = args[0], args[1:]
    try:
        if name not in COMMANDS:
            raise ValueError(unknown("command", name, COMMANDS))
        options = words if COMMANDS[name] is None else parse(COMMANDS[name], words, f"cmlab {name}")
        from .commands import execute

        return execute(name, options)
    except BrokenPipeError:  # the reader of our output has gone: nothing is wrong
        sys.stderr.close()
        return 0
    except _KNOWN_ERRORS as error:
        print(f"cmlab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cmlab: interrupted, nothing was written", file=sys.stderr)
        return 130
    except SystemExit as stop:  # tyro prints its help and exits
        return int(stop.code or 0)


def run(*first: str) -> NoReturn:
    """The program ``cmlab``: its words, after ``first``, and its exit status."""
    status = main([*first, *sys.argv[1:]])
    if "torch" in sys.modules:
        from ..training.processes import leave

        leave(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
