"""cmlab: learn, explore and train consistency models. The one contract: ``denoise(x, sigma, label=None) -> x0_hat``.

The names of ``__init__.pyi`` are imported when they are first used: to import torch takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
