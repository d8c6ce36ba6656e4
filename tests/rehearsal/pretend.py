"""A CUDA device that is pretended: tensors on it have shape, dtype and device but no numbers, those on the CPU are real.

PyTorch then checks device and dtype of every operation as on the real thing. What makes the host wait for the device is noted, with
its line in cmlab: a number that is read (bool, float, .item(), boolean masks), a copy to the host, a copy from it that blocks.
Not rehearsed: streams, memory, kernels. The autograd engine wants a real context, so `backward` walks the graph itself.
"""

import contextlib
import logging
import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
PACKAGE = str(Path(__file__).parents[2] / "cmlab") + os.sep
ATEN = torch.ops.aten
# Their answers have a shape that depends on numbers: the host waits for it.
COUNTED = {ATEN.nonzero.default, ATEN.masked_select.default, ATEN._unique2.default, ATEN.unique_dim.default}


class Outcome(NamedTuple):
    """``waits``: one line for each, as it came; ``error``: "" or what was raised; ``result``: of the case."""

    waits: list[str]
    error: str
    result: Any = None


def _line() -> str:
    ours = [f for f in traceback.extract_stack() if f.filename.startswith(PACKAGE)]
    return f"{ours[-1].filename.removeprefix(PACKAGE)}:{ours[-1].lineno} {ours[-1].line}" if ours else "outside"


class Pretended(TorchDispatchMode):
    """To be used inside a FakeTensorMode: what touches no CUDA tensor runs for real."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def note(self, what: str) -> None:
        self.waits.append(f"{what}: {_line()}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        fake = any(isinstance(a, FakeTensor) for a in flat)
        wanted = kwargs.get("device")
        if not fake and (wanted is None or torch.device(wanted).type != "cuda"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is ATEN._local_scalar_dense.default:
            self.note("read")
            return True if args[0].dtype == torch.bool else 1
        if func in COUNTED or (func is ATEN.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.note("count")
            raise TypeError(f"{func} of a device: its shape depends on numbers")
        if func is ATEN._to_copy.default and wanted is not None:
            to, blocking = torch.device(wanted).type, not kwargs.get("non_blocking", False)
            if to == "cpu":
                self.note("to the host")
                with unset_fake_temporarily():
                    return tree_map(lambda t: torch.zeros(t.shape, dtype=kwargs.get("dtype") or t.dtype), args[0])
            if blocking and not fake:
                self.note("blocking copy")
        if func is ATEN.copy_.default and args[0].device.type != args[1].device.type:
            if args[0].device.type == "cpu":
                self.note("to the host")
                return args[0]
            if not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking"):
                self.note("blocking copy")
        # A number on the host may meet a tensor on the device: it goes along as an argument of the kernel.
        return func(*args, **kwargs)


def backward(loss: Tensor) -> None:
    """Gradients of ``loss`` () by a walk over the graph, node by node, as the engine does it."""
    root, order, seen = loss.grad_fn, [], set()
    stack = [(root, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(after, False) for after, _ in cast(Any, node).next_functions if after is not None]
    given: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    with torch.no_grad():
        for node in reversed(order):
            slots = given.pop(node, {})
            if hasattr(node, "variable"):
                v, g = node.variable, slots.get(0)
                if g is not None:
                    v.grad = g.to(v.dtype) if v.grad is None else v.grad + g
                continue
            if not slots:
                continue
            grads = node(*[slots.get(k) for k in range(len(node._input_metadata))])
            for (after, k), g in zip(node.next_functions, grads if isinstance(grads, tuple) else (grads,), strict=False):
                if after is not None and g is not None:
                    wanted, slot = after._input_metadata[k], given.setdefault(after, {})
                    g = g.sum_to_size(wanted.shape).to(wanted.dtype)  # what was broadcast or cast on the way
                    slot[k] = g if k not in slot else slot[k] + g


class _Here(contextlib.nullcontext):
    def __init__(self, *_):
        super().__init__()


def _pretend() -> None:
    """Answer what torch.cuda is asked on the way: not `is_available`, fake tensors would look for a driver."""
    fork, to, state = torch.random.fork_rng, nn.Module.to, torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Any] = {
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "device": _Here,
        "manual_seed": lambda seed: None,
        "get_rng_state": lambda device=None: state,
        "set_rng_state": lambda state, device=None: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (2**34, 2**34),
        "synchronize": lambda device=None: None,
        "get_device_name": lambda device=None: "pretended",
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch.random.fork_rng = lambda devices=(), **options: fork(devices=[], **options)
    for module in (torch.amp.grad_scaler, torch.cuda.amp.common):
        cast(Any, module).amp_definitely_not_available = lambda: False
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    Tensor.backward = lambda self, *_, **__: backward(self)
    cast(Any, Tensor).pin_memory = lambda self, *_: self

    def moved(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        # Parameters that are there already cannot be exchanged once more.
        return self if any(isinstance(p, FakeTensor) for p in self.parameters()) else to(self, *args, **kwargs)

    nn.Module.to = moved


@contextlib.contextmanager
def pretended() -> Iterator[Pretended]:
    """For a process of its own: torch stays changed."""
    _pretend()
    with FakeTensorMode(allow_non_fake_inputs=True), Pretended() as device:
        yield device


def _attempt(case: Callable[[Pretended], Any], device: Pretended) -> Outcome:
    device.waits = []
    try:
        return Outcome(device.waits, "", case(device))
    except Exception as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(PACKAGE)]
        at = f" at {ours[-1].filename.removeprefix(PACKAGE)}:{ours[-1].lineno} {ours[-1].line}" if ours else ""
        return Outcome(device.waits, f"{type(error).__name__}: {str(error)[:400]}{at}")


def rehearse(cases: Mapping[Any, Callable[[Pretended], Any]]) -> dict[Any, Outcome]:
    """Run each ``case(device)`` on the pretended device: all in one child process, whose torch is changed for it."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads: the child has one
        pid = os.fork()
    if pid == 0:
        try:
            warnings.simplefilter("ignore")
            logging.disable()  # torch tells of each refused operation, and so does the outcome
            with pretended() as device:
                outcomes = {name: _attempt(case, device) for name, case in cases.items()}
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(outcomes, pipe)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return pickle.loads(data)
