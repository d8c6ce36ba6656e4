"""What moves the weights: torch's optimizers, RAdam with safe first steps, and Muon."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

EACH: Any = torch  # whose functions of many tensors at once are in use everywhere, but not exported


class RAdam(torch.optim.RAdam):
    """torch's RAdam, the first steps of which are never longer than the learning rate.

    In the first five steps or so the spread of the gradients is not known (Liu et al., arXiv 1908.03265, section 4: rho at most 5),
    and torch goes along the raw gradient, whatever its size. Here that is shortened to norm 1. All other steps are torch's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As in torch; of a closure torch's own first steps."""
        for group in self.param_groups:
            taken = next((self.state[p]["step"] for p in group["params"] if self.state.get(p)), 0)
            if isinstance(taken, Tensor) and taken.is_cuda:
                grads = [p.grad for p in group["params"] if p.grad is not None]
                early = _rho(taken.double() + 1, group["betas"][1]) <= 5
                shorter = (1 / (get_total_norm(grads) + 1e-6)).clamp_max(1)
                EACH._foreach_mul_(grads, torch.where(early, shorter, 1.0))
            elif _rho(int(taken) + 1, group["betas"][1]) <= 5:
                torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
            elif closure is None and len(self.param_groups) == 1 and self._at_once(group):
                return None
        return super().step(closure)

    def _at_once(self, group: dict[str, Any]) -> bool:
        """Adam's step with another rate and epsilon, for all tensors in one call, if they are equally old: whether it was made."""
        params = [p for p in group["params"] if p.grad is not None]
        states, (beta1, beta2) = [self.state[p] for p in params], group["betas"]
        if len(taken := {int(state["step"]) if state else 0 for state in states}) != 1:
            return False
        steps, t = [state["step"] for state in states], taken.pop() + 1
        EACH._foreach_add_(steps, torch.ones(()), alpha=1.0)
        most, rho = 2 / (1 - beta2) - 1, _rho(t, beta2)
        rectified = ((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)) ** 0.5
        grads, means, squares = [p.grad for p in params], [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        EACH._fused_adam_(
            params, grads, means, squares, [], steps, lr=group["lr"] * rectified, beta1=beta1, beta2=beta2,
            weight_decay=group["weight_decay"], eps=group["eps"] / (1 - beta2**t) ** 0.5, amsgrad=False, maximize=False,
        )  # fmt: skip
        return True


def _rho(t: Any, beta2: float) -> Any:
    """RAdam's length of the average of squared gradients after ``t`` of them."""
    return 2 / (1 - beta2) - 1 - 2 * t * beta2**t / (1 - beta2**t)


MOMENTUM, ADAM, EPS = 0.95, 0.2, 1e-8  # Muon's momentum; the others' rate as a part of the matrices'; Adam's epsilon
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest (rows, columns) matrix with equal singular values, about: they come out between 0.7 and 1.2.

    Five Newton-Schulz iterations with Jordan's coefficients, in bfloat16 on a GPU and in float32 on a CPU.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x / (x.norm() + 1e-7)
    wide = x if x.shape[0] <= x.shape[1] else x.mT
    for _ in range(5):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide if x.shape[0] <= x.shape[1] else wide.mT).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for weights of two dimensions or more, a filter bank as the matrix (out, rest), and Adam for the others.

    Steps along the nearest orthogonal matrix (Keller Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024;
    arXiv 2502.16982), as torch.optim.Muon does for matrices alone. A matrix moves by ``lr sqrt(max(1, rows / columns))`` times it,
    whatever the size of its gradient, which is put together where it is divided over processes.

    Args:
        params: the parameters.
        lr: the matrices' learning rate, about 0.01; that of the others is a fifth.
        betas: Adam's decays; the matrices' momentum is 0.95, in Nesterov's way.
        weight_decay: part of each parameter that a step at rate 1 takes away (AdamW's).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    rate, direction = self._matrix(p, p.grad) if p.ndim > 1 else self._vector(p, p.grad, *group["betas"])
                    p.mul_(1 - group["lr"] * rate * group["weight_decay"])
                    p.add_(direction, alpha=-group["lr"] * rate)
        return loss

    def _matrix(self, p: nn.Parameter, grad: Tensor) -> tuple[float, Tensor]:
        momentum = self.state[p].setdefault("momentum", torch.zeros_like(p)).lerp_(grad, 1 - MOMENTUM)
        ahead = grad.lerp(momentum, MOMENTUM)
        whole = cast(Any, ahead).full_tensor() if hasattr(ahead, "full_tensor") else ahead
        matrix = orthogonal(whole.flatten(1)).view(whole.shape)
        if whole is not ahead:
            from .sharding import part_of

            matrix = part_of(matrix, ahead)
        rows, columns = p.shape[0], p[0].numel()
        return 1.0, matrix.mul_(max(1.0, rows / columns) ** 0.5)

    def _vector(self, p: nn.Parameter, grad: Tensor, beta1: float, beta2: float) -> tuple[float, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device if p.is_cuda else "cpu")
            state |= {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].lerp_(grad.square(), 1 - beta2)
        step = state["step"].double() if p.is_cuda else float(state["step"])
        spread = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(EPS)
        return ADAM, (state["exp_avg"] / (1 - beta1**step)).div_(spread)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "radam": RAdam,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "muon": Muon,
}


def on_device(name: str, device: torch.device) -> dict[str, bool]:
    """Options with which optimizer ``name`` is fast on ``device``, and counts its steps there."""
    if name in ("adam", "adamw"):
        return {"fused": device.type in ("cuda", "cpu")}
    return {"capturable": True} if name == "radam" and device.type == "cuda" else {}


@torch.no_grad()
def move_where(made: Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """``optimizer.step()`` where ``made`` () holds, else nothing moves: decided on their device, without waiting for it.

    torch's fused optimizers can be told. For others the parameters and the state come back from copies, and gradients that are not
    finite are replaced, so that a product with 0 is 0.
    """
    good, bad = made.float(), (~made).float()
    plain = not any(hasattr(p, "_local_tensor") for p in parameters)
    if getattr(optimizer, "_step_supports_amp_scaling", False) and plain:
        fused: Any = optimizer
        fused.grad_scale, fused.found_inf = None, bad
        optimizer.step()
        return

    def moved() -> list[Tensor]:
        state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
        return [getattr(t, "_local_tensor", t) for t in (*parameters, *state)]

    for p in parameters:
        if p.grad is not None:
            getattr(p.grad, "_local_tensor", p.grad).masked_fill_(~made, 0)
    live = moved()
    before = dict(zip(map(id, live), EACH._foreach_mul(live, bad), strict=True))
    optimizer.step()
    after = moved()  # a first step makes the state, from zeros
    EACH._foreach_mul_(after, good)
    there = [t for t in after if id(t) in before]
    EACH._foreach_add_(there, [before[id(t)] for t in there])
