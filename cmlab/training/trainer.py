"""One optimisation step, and all that it changes: model, optimizer, averages of the weights, target."""

import copy
import platform
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from ..denoiser import Denoise, Denoiser
from ..losses import Loss
from ..networks.layers import compile_blocks
from ..noise import Draws
from .config import HalfLife, Precision, TrainConfig
from .optimizers import EACH, OPTIMIZERS, move_where, on_device
from .processes import ALONE, Processes

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 itself: emulated, it is slower than float32, on an AVX2 processor eight times."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable_precision(precision: Precision, device: torch.device) -> Precision:
    """``precision``, and for "auto" what is fast on ``device``: bf16 where it `has_bf16`, else float32."""
    return precision if precision != "auto" else "bf16" if has_bf16(device) else "float32"


def compute_in(model: Denoiser, precision: Precision, compile: bool = False) -> Denoiser:
    """``model``, whose network computes in ``precision`` from now on; what it is given and answers stays float32 or float64.

    "auto" is what is fast on its device (`usable_precision`), for pictures alone: points it leaves in float32. Filters are ordered
    by pixel where that is faster; in float32 a CPU keeps its bits. ``compile`` lets torch compile the network.
    """
    images, weight = len(model.shape) == 3, next(model.parameters())
    wanted = PRECISIONS[usable_precision(precision, weight.device) if images or precision != "auto" else "float32"]
    model.compute = None if wanted == torch.float32 else wanted
    if images and (model.compute or weight.is_cuda):
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if compile:
        compile_blocks(model.net)
    return model


class MicroBatch(NamedTuple):
    """Some samples of a batch.

    Args:
        x0: (n, *S).
        label: (n,), or None.
        draws: the random numbers that belong to these samples.
        augment: (n, labels), what the network is told of how they were augmented; or None.
    """

    x0: Tensor
    label: Tensor | None
    draws: Draws
    augment: Tensor | None = None


class Snapshot(NamedTuple):
    """A training between two steps: every tensor that it moves, by name, and the rest as JSON can hold it."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Tensors(NamedTuple):
    """The parameters and buffers of a module: to list them takes a small network longer than to average them."""

    parameters: list[nn.Parameter]
    buffers: list[Tensor]

    @classmethod
    def of(cls, module: "nn.Module | Tensors") -> "Tensors":
        return module if isinstance(module, Tensors) else cls(list(module.parameters()), list(module.buffers()))

    @property
    def here(self) -> list[Tensor]:
        """The parameters; of those that are divided over processes the part that this one holds."""
        return [getattr(p, "_local_tensor", p) for p in self.parameters]


@torch.no_grad()
def update_average(target: nn.Module | Tensors, source: nn.Module | Tensors, rate: float, made: Tensor | bool = True) -> None:
    """target <- rate target + (1 - rate) source, every parameter, where ``made`` () holds on their device; buffers are copied."""
    target, source = Tensors.of(target), Tensors.of(source)
    old, new = target.here, source.here
    if isinstance(made, Tensor):
        EACH._foreach_add_(old, EACH._foreach_mul(EACH._foreach_sub(new, old), made * (1 - rate)))
    elif made:
        EACH._foreach_lerp_(old, new, 1 - rate)
    for mean, buffer in zip(target.buffers, source.buffers, strict=True):
        mean.copy_(buffer)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that takes no gradient, in the same mode."""
    return copy.deepcopy(model).requires_grad_(False)


class _Objective(nn.Module):
    """Model and loss as one module: many processes add up the gradients of what runs inside one forward call."""

    def __init__(self, model: nn.Module, loss: Loss, dtype: torch.dtype):
        super().__init__()
        self.model, self.loss, self.dtype = model, loss, dtype

    def forward(
        self, micro_batch: MicroBatch, batch: int, progress: float, target: Denoise | None, teacher: Denoise | None
    ) -> Tensor:
        x0, label, draws, augment = micro_batch
        model = self.model if augment is None else partial(self.model, augment=augment)
        with torch.autocast(x0.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext():
            out = self.loss(model, x0, label, progress=progress, target=target, teacher=teacher, draws=draws)
        if out.loss.shape != x0.shape[:1]:
            found, wanted = tuple(out.loss.shape), tuple(x0.shape[:1])
            raise ValueError(f"{type(self.loss).__name__} returns one number per sample, {wanted}: got the shape {found}")
        return out.loss.sum() / batch


class Trainer:
    """Model, optimizer, weight averages and target average, and one optimisation step of them.

    The averages start as copies of the model (Karras et al. 2022; CM, Algorithms 2 and 3). A step of which loss or gradient is not
    finite moves nothing and is counted: ``skipped`` in all, ``in_a_row`` since the last good one.

    Args:
        model: trained in place, on the device where it is.
        loss: the objective.
        config: optimizer, learning rate, averages, precision and so on; by default that of `TrainConfig`.
        teacher: the diffusion model of a distilling loss.
        compile: let torch compile the networks; not for losses that differentiate forwards.
        processes: those that share each step; each is given its own rows, and with ``processes.shard`` its part of all weights.
        changes: values of the configuration, by name: ``lr=1e-4``.

    Raises ValueError for a teacher that is missing or has no use, and options that do not exist or do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        config: TrainConfig | None = None,
        *,
        teacher: Denoise | None = None,
        compile: bool = False,
        processes: Processes = ALONE,
        **changes: Any,
    ):
        self.config = config = (config or TrainConfig()).changed(**changes)
        if loss.needs_teacher and teacher is None:
            raise ValueError("this loss distils a teacher: pass teacher=, a trained diffusion model or an oracle")
        if teacher is not None and not loss.needs_teacher:
            raise ValueError("this loss has no use for a teacher: leave it out, or choose a loss that distils")
        device = next(model.parameters()).device
        precision = usable_precision(config.precision, device)
        if compile and loss.differentiates_forwards:
            raise ValueError("a continuous-time loss differentiates forwards, which torch cannot compile: leave out compile")
        if processes.shard and loss.differentiates_forwards:
            raise ValueError("a continuous-time loss differentiates forwards, which divided weights cannot do: leave out shard")
        if processes.shard and compile:
            raise ValueError("compile is for whole weights: choose shard or compile")
        if processes.shard and precision == "fp16":
            raise ValueError("shard has no use for scaled losses: choose --precision bf16")
        self.model, self.loss, self.teacher, self.processes = model, loss, teacher, processes
        self.rates, self.compile = config.averages, compile
        if not self.rates or not all(isinstance(rate, HalfLife) or 0 <= rate <= 1 for rate in self.rates):
            raise ValueError(f"ema must be one or more decays in [0, 1] or half-lives, got {', '.join(map(str, self.rates))}")
        self.shards = None
        if processes.shard:
            from .sharding import Shards

            self.shards = Shards(model, processes.world_size, device)
            if isinstance(teacher, Denoiser):
                self.teacher = self.shards.divide(frozen_copy(teacher))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.objective: nn.Module = _Objective(model, loss, PRECISIONS[precision])
        if processes.world_size > 1 and not self.shards:
            from torch.nn.parallel import DistributedDataParallel

            # A network that could be told of augmentation has parameters that are idle without.
            idle = isinstance(model, Denoiser) and getattr(model.config, "augment", 0) > 0
            self.objective = DistributedDataParallel(self.objective, find_unused_parameters=idle, gradient_as_bucket_view=True)
        self._skipped: int | Tensor = 0  # counted where the training is: to read them is to wait
        self._in_a_row: int | Tensor = 0
        self.stage = 0
        self._compile(model)
        self._compile(teacher)
        self.restart()

    def _compile(self, model: object) -> None:
        if self.compile and isinstance(model, Denoiser):
            compile_blocks(model.net)

    def _copy(self, model: nn.Module) -> nn.Module:
        return self.shards.copy(model) if self.shards else frozen_copy(model)

    def whole(self, model: nn.Module) -> nn.Module:
        """``model`` or, where it is divided over the processes, a whole copy of it on the CPU: all of them call this together."""
        return self.shards.whole(model).train(model.training) if self.shards else model

    def restart(self) -> None:
        """Forget the optimizer's state; averages and target become copies of the model."""
        self.emas = tuple(self._copy(self.model).eval() for _ in self.rates)
        self.target = self._copy(self.model) if self.loss.needs_target else None
        self._compile(self.target)
        self._moved = Tensors.of(self.model)
        self._averages = [Tensors.of(m) for m in (*self.emas, self.target) if m is not None]
        c = self.config
        options: dict[str, Any] = {"lr": c.lr, "weight_decay": c.weight_decay, "betas": (0.9, c.beta2)}
        self.optimizer = OPTIMIZERS[c.optimizer](self.parameters, **options, **on_device(c.optimizer, self.parameters[0].device))
        self.images = 0

    def next_stage(self, source: Literal["model", "ema"]) -> None:
        """Progressive distillation: the student, or its first average, becomes the teacher and the start of the next student."""
        if source == "ema":
            self.model.load_state_dict(self.emas[0].state_dict())
        self.teacher = self._copy(self.model).eval()
        self._compile(self.teacher)
        self.stage += 1
        self.restart()

    def step(self, micro_batches: Iterable[MicroBatch], batch: int, progress: float, lr: float | None = None) -> Tensor:
        """One step on a batch of ``batch`` samples that comes in ``micro_batches``; returns its mean loss before the step, ().

        ``lr`` replaces the learning rate from now on. Of several processes each gives its own micro-batches, and all return the
        loss of the whole batch.
        """
        if lr is not None:
            self.optimizer.param_groups[0]["lr"] = lr
        for p in self.parameters:  # as the optimizer does in ten times as long
            p.grad = None
        total, micro_batches = None, list(micro_batches)
        for k, micro_batch in enumerate(micro_batches):
            with self._sending(k + 1 == len(micro_batches)):
                value = self.objective(micro_batch, batch, progress, self.target, self.teacher)
                # Data parallelism takes the mean of the processes' gradients, each of which is a share of the sum.
                self.scaler.scale(value * self.processes.world_size if self.processes.world_size > 1 else value).backward()
            total = value.detach().clone() if total is None else total + value.detach()
        total = self.processes.sum(cast(Tensor, total))
        self._finish(total, batch, progress)
        self.scaler.update()
        self.images += batch
        return total

    def _sending(self, now: bool) -> AbstractContextManager:
        """Gradients that are added up here first are not sent yet."""
        if self.shards:
            self.shards.send(self.model, now)
        return nullcontext() if now or self.shards or self.processes.world_size == 1 else cast(Any, self.objective).no_sync()

    def _finish(self, total: Tensor, batch: int, progress: float) -> None:
        """Make the step if loss and gradient are finite, the same in all processes, that share them; count it if not.

        A GPU decides and counts itself: the host, which would have to wait for it, goes on to the next step.
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.stack(EACH._foreach_norm([p.grad for p in self.parameters if p.grad is not None])).norm()
        whole = cast(Any, norm).full_tensor() if self.shards else norm
        self.made = torch.isfinite(whole + total)
        there = self.made.device.type == "cuda"
        made = self.made if there else bool(self.made)
        bad = ~made if isinstance(made, Tensor) else not made
        self._skipped, self._in_a_row = self._skipped + bad, (self._in_a_row + 1) * bad
        if self.config.clip and (there or made):
            clip_grads_with_norm_(self.parameters, self.config.clip, norm)
        if isinstance(made, Tensor):
            move_where(made, self.optimizer, self.parameters)
        elif made:
            self.scaler.step(self.optimizer)
        else:
            return
        rates = [rate.decay(self.images, batch) if isinstance(rate, HalfLife) else rate for rate in self.rates]
        rates += [] if self.target is None else [self.loss.target_decay(progress)]
        for average, rate in zip(self._averages, rates, strict=True):
            update_average(average, self._moved, rate, made)

    @property
    def skipped(self) -> int:
        return int(self._skipped)

    @property
    def in_a_row(self) -> int:
        return int(self._in_a_row)

    # --- to and from files -----------------------------------------------------------------------------------------------

    def _modules(self) -> dict[str, nn.Module]:
        modules = {"model": self.model} | {f"ema{i}": ema for i, ema in enumerate(self.emas)}
        if self.target is not None:
            modules["target"] = self.target
        if self.stage:  # the teacher is no longer the one that was given
            modules["teacher"] = cast(nn.Module, self.teacher)
        return modules

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on; live tensors, that the next step changes.

        Where they are divided over the processes, all call this together, and the first gets them.
        """
        tensors = {f"{role}.{k}": v for role, module in self._modules().items() for k, v in module.state_dict().items()}
        names = {p: name for name, p in self.model.named_parameters()}
        for p, values in self.optimizer.state.items():
            tensors |= {f"optimizer.{names[cast(nn.Parameter, p)]}.{k}": v for k, v in values.items()}
        if self.shards:
            tensors = self.shards.gather(tensors, self.processes.is_main_process)
        facts = {k: getattr(self, k) for k in ("stage", "images", "skipped", "in_a_row")}
        return Snapshot(tensors, facts | {"scaler": self.scaler.state_dict()})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where ``snapshot`` was taken; raises ValueError when it belongs to another model, loss or optimizer."""
        facts = snapshot.facts
        self.stage, self.images, self._skipped, self._in_a_row = (facts[k] for k in ("stage", "images", "skipped", "in_a_row"))
        if self.stage:
            self.teacher = self._copy(self.model).eval()
            self._compile(self.teacher)
        left = dict(snapshot.tensors)
        for role, module in self._modules().items():
            for name, ours in module.state_dict().items():
                _fill(ours, left.pop(f"{role}.{name}", None), f"{role}.{name}")
        self.optimizer.state.clear()
        for name, p in self.model.named_parameters():
            mine = f"optimizer.{name}."
            for key in [k for k in left if k.startswith(mine) and "." not in k.removeprefix(mine)]:
                value = left.pop(key)
                where = p.device if p.device.type == "cuda" else "cpu"
                kept = torch.zeros((), device=where) if key == f"{mine}step" else torch.empty_like(p, requires_grad=False)
                _fill(kept, value, key)
                self.optimizer.state[p][key.removeprefix(mine)] = kept
        if left:
            raise ValueError(f"the saved state has {min(left)} and this run does not: resume with the options it was started with")
        self.scaler.load_state_dict(facts["scaler"])


@torch.no_grad()
def _fill(ours: Tensor, saved: Tensor | None, name: str) -> None:
    if saved is None or saved.shape != ours.shape or saved.dtype != ours.dtype:
        has, wanted = ("nothing" if t is None else f"{tuple(t.shape)} {t.dtype}" for t in (saved, ours))
        raise ValueError(f"the saved state has {has} for {name}, which is {wanted}: resume with the options of its start")
    if hasattr(ours, "full_tensor"):
        from .sharding import part_of

        saved = part_of(saved, ours)
    ours.copy_(saved)
