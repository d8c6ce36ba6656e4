"""cmlab: learn, explore and train consistency models. The one contract: ``denoise(x, sigma, label=None) -> x0_hat``.

The names of ``__init__.pyi`` are imported when they are first used: to import torch takes seconds.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

import lazy_loader

__version__ = "0.1.0"
# Modules that stand in a room now, by the names that they had before: those still import.
_ROOMS = {
    "methods": "sde continuous solvers ablation guidance likelihood search augment indicator",
    "data": "cifar10 sources names",
    "training": "trainer processes sharding experiment presets published cost chain",
    "evaluation": "metrics features report card cardpictures classifier classifier_training",
    "formats": "checkpoints convert unpickle",
    "course": "teach",
    "commands": "options",
}
_MOVED = {
    **{name: f"{room}.{name}" for room, names in _ROOMS.items() for name in names.split()},
    **{"objective": "losses", "steps": "samplers", "images": "data.pictures", "runs": "training.states", "cli": "commands.main"},
    **{"theory_base": "theory.base", "theory_ct": "theory", "theory_dirac": "theory.dirac", "plots_theory": "theory.figures"},
    "plots_maps": "plots",
}
_BY_NAME = ("course", "plots")  # rooms that import figures: attributes, but no part of ``from cmlab import *``
_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    known = name in _MOVED or name in _BY_NAME
    return importlib.import_module(f"{__name__}.{_MOVED.get(name, name)}") if known else _lazy(name)


class _Moved(MetaPathFinder, Loader):
    """Finds ``cmlab.OLD`` where it is now: one module under two names."""

    def find_spec(self, fullname, path=None, target=None):
        old = fullname.removeprefix(f"{__name__}.")
        return ModuleSpec(fullname, self) if old in _MOVED and old != fullname else None

    def create_module(self, spec):
        module = importlib.import_module(f"{__name__}.{_MOVED[spec.name.removeprefix(f'{__name__}.')]}")
        self._own = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module):
        module.__spec__ = self._own


sys.meta_path.append(_Moved())
