"""The probability-flow ODE run upwards: the noise that a sample comes from, and the sample's likelihood.

In u = ln sigma the ODE is dx/du = x - D(x, sigma), and the density that it carries along obeys d ln p / du = -(d - tr dD/dx) (Score
SDE, eq. 39 and appendix D.2). With d dimensions and the prior N(0, sigma_max^2) that samplers start from,

    ln p(x0) = ln N(x_T; 0, sigma_max^2 I) + d ln(sigma_max / sigma_min) - integral of tr dD/dx over u

``p`` is the density of what `decode` makes of the prior, at sigma_min: for an exact denoiser the data's, blurred by sigma_min.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ..base.suggest import check_choice
from ..denoiser import Denoise, Label, traits_of
from ..noise import Source, as_draws, state_dtype
from ..oracle import Oracle
from ..samplers import level_range

TOLERANCE = 1e-6
# Below this the rounding of a network's precision looks like a rough ODE, and the steps shrink without end.
_FINEST = {8: 0.0, 4: 1e-6, 2: 1e-2, 1: 1e-1}  # by bytes per parameter


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods of a batch.

    Attributes:
        log_prob: (B,) natural logarithm of the density at x0 (at the dequantised x0, where that was asked for).
        bits_per_dim: (B,) -log2 of the probability of a cell of width ``bin_width``, per dimension.
        standard_error: (B,) of ``log_prob``, measured over the Hutchinson probes; 0 for an exact trace, NaN for a single probe.
        latent: (B, *S) the noise x_T at sigma_max that x0 comes from.
        nfe: calls of the denoiser (an exact trace adds d backward passes to each, Hutchinson's one for every probe).
    """

    log_prob: Tensor
    bits_per_dim: Tensor
    standard_error: Tensor
    latent: Tensor
    nfe: int


class Ode(TypedDict, total=False):
    """The two ends of the ODE, by default 0.002 and 80, cut to the levels of the model's training, and how closely it is solved:
    with an error of at most atol + rtol |x| in every coordinate and step (1e-6 by default)."""

    sigma_min: float | None
    sigma_max: float | None
    rtol: float
    atol: float


def encode(denoise: Denoise, x0: Tensor, label: Label = None, **ode: Unpack[Ode]) -> Tensor:
    """The noise x_T (B, *S), at ``sigma_max``, from which the PF-ODE leads to ``x0`` at ``sigma_min``.

    ``sigma_min``, ``sigma_max``, ``rtol`` and ``atol`` are those of `Ode`. Solved by dopri5. The state is float64 (float32 on mps);
    a float32 network allows no tolerance below 1e-6: pass ``model.double()`` for less. Raises ValueError for a consistency model
    or levels that the model was not trained for.
    """
    low, high, *tolerances = _checked(denoise, **ode)
    return _solve(lambda u, x: x - denoise(x, u.exp(), label), x0, low, high, *tolerances)


def decode(denoise: Denoise, latent: Tensor, label: Label = None, **ode: Unpack[Ode]) -> Tensor:
    """The inverse of `encode`: the PF-ODE from ``latent`` at ``sigma_max`` down to ``sigma_min``, solved adaptively."""
    low, high, *tolerances = _checked(denoise, **ode)
    return _solve(lambda u, x: x - denoise(x, u.exp(), label), latent, high, low, *tolerances)


def log_likelihood(
    denoise: Denoise,
    x0: Tensor,
    label: Label = None,
    *,
    trace: Literal["exact", "hutchinson"] = "exact",
    probes: int = 1,
    probe: Literal["rademacher", "gaussian"] = "rademacher",
    noise: Source | None = None,
    bin_width: float | None = None,
    dequantize: bool = False,
    prior: Callable[[Tensor], Tensor] | None = None,
    **ode: Unpack[Ode],
) -> Likelihood:
    """The log-density of ``x0`` (B, *S) under a diffusion model or an exact denoiser, by the change of variables along the PF-ODE.

    Args:
        denoise: differentiable in x; in eval mode if it is a network.
        x0: the data, in the units of the model.
        label: (B,) int64 for a conditional model: the likelihood given the class.
        trace: "exact" takes d backward passes per evaluation; "hutchinson" averages v^T (dD/dx) v over ``probes`` random v, which
            stay the same along the trajectory, so the ODE stays smooth and the estimate unbiased (Score SDE, eq. 40).
        probe: distribution of v. Rademacher's signs have the lower variance: diagonal entries are exact.
        noise: draws of the probes and of ``dequantize``; needed for these alone.
        bin_width: width of the cell whose probability ``bits_per_dim`` codes, -ln p / (d ln 2) - log2(bin_width). By default
            2/255 for pictures (8 bits in [-1, 1]: + log2 127.5 = 6.994 bits) and 1 for points (the plain density).
        dequantize: add uniform noise in +-bin_width / 2 first, so that the mean of -log_prob bounds the discrete code length of
            rounded data from above (Theis et al., 2016, section 3.1; Score SDE reports bits in this way).
        prior: log-density at sigma_max, (B, *S) -> (B,). By default N(0, sigma_max^2 I), from which samplers start, and for an
            `Oracle` its own exact density there.
        ode: ``sigma_min``, ``sigma_max``, ``rtol`` and ``atol``, see `encode`. ``log_prob`` is the density at ``sigma_min``.

    The prior N(0, sigma_max^2) stands in for the density of noised data. With mean m and variance s^2 per coordinate, and z =
    x_T / sigma_max, this changes ln p(x0) by about -m.z / sigma_max + (d - |z|^2) s^2 / (2 sigma_max^2): below 1e-4 nats for the 2D
    sets, and by |m|^2 / (2 sigma_max^2) on average over data.

    Raises ValueError for a consistency model (it is no drift of an ODE), for options that would be ignored and for missing noise;
    FloatingPointError where the ODE cannot be solved.
    """
    low, high, *tolerances = _checked(denoise, **ode)
    check_choice("trace", trace, ("exact", "hutchinson"))
    check_choice("probe", probe, ("rademacher", "gaussian"))
    if trace == "exact" and (probes, probe) != (1, "rademacher"):
        raise ValueError("probes and probe belong to trace='hutchinson': the exact trace draws none")
    if probes < 1:
        raise ValueError(f"Hutchinson's estimate needs at least 1 probe, got {probes}")
    if bin_width is not None and not bin_width > 0:
        raise ValueError(f"bin_width must be above 0, got {bin_width}")
    if dequantize and bin_width is None and x0.ndim != 4:
        raise ValueError("points are not rounded to a grid: leave dequantize out, or say how wide a cell is with bin_width")
    draws_something = dequantize or trace == "hutchinson"
    if draws_something and noise is None:
        raise ValueError("probes and dequantisation are drawn: pass noise=, a list of per-sample seeds or a torch.Generator")
    if noise is not None and not draws_something:
        raise ValueError("the exact trace without dequantisation draws nothing: leave noise out")
    width = bin_width if bin_width is not None else 2 / 255 if x0.ndim == 4 else 1.0
    draws = as_draws(noise) if noise is not None else None

    x0 = x0.to(state_dtype(x0.device))
    batch, dim = len(x0), x0[0].numel()
    if draws is not None and dequantize:
        x0 = x0 + width * (draws.uniform(x0.shape).to(x0) - 0.5)
    if draws is None or trace == "exact":  # unit vectors: the trace is the sum of e_i^T J e_i
        vectors = [row.reshape(1, *x0.shape[1:]).expand(x0.shape) for row in torch.eye(dim, dtype=x0.dtype, device=x0.device)]
    else:  # random vectors v with E[v v^T] = I
        shape = (batch, probes, *x0.shape[1:])
        v = draws.normal(shape) if probe == "gaussian" else 2.0 * (draws.uniform(shape) < 0.5) - 1.0
        vectors = list(v.to(x0).unbind(1))
    calls = 0

    def drift(log_sigma: Tensor, state: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        x = state[:, :dim].reshape(x0.shape)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0_hat = denoise(x, log_sigma.exp(), label)
            estimates = _quadratic_forms(x, x0_hat, vectors)
        if trace == "exact":
            estimates = estimates.sum(1, keepdim=True)
        return torch.cat([(x - x0_hat).detach().flatten(1), estimates], 1)

    count = 1 if trace == "exact" else probes  # of traces, each integrated along
    start = torch.cat([x0.flatten(1), x0.new_zeros(batch, count)], 1)
    end = _solve(drift, start, low, high, *tolerances)
    latent, integrals = end[:, :dim].reshape(x0.shape), end[:, dim:]
    if prior is not None:
        log_prior = prior(latent)
    elif isinstance(denoise, Oracle):
        log_prior = denoise.log_prob(latent, latent.new_tensor(high))
    else:
        log_prior = normal_log_prob(latent, high)
    log_probs = (log_prior + dim * math.log(high / low)).unsqueeze(1) - integrals
    log_prob = log_probs.mean(1)
    error = torch.zeros_like(log_prob) if trace == "exact" else log_probs.new_full((batch,), math.nan)
    if count > 1:
        error = log_probs.std(1) / math.sqrt(count)
    return Likelihood(log_prob, bits_per_dim(log_prob, dim, width), error, latent, calls)


def bits_per_dim(log_prob: Tensor, dim: int, bin_width: float = 1.0) -> Tensor:
    """-ln p / (d ln 2) - log2(bin_width): bits per dimension for a cell of that width (2/255: 8-bit pictures in [-1, 1])."""
    return -log_prob / (dim * math.log(2)) - math.log2(bin_width)


def normal_log_prob(x: Tensor, std: float) -> Tensor:
    """Natural logarithm of the density N(0, std^2 I) at x (B, *S), (B,)."""
    dim = x[0].numel()
    return -0.5 * (x.flatten(1).square().sum(1) / std**2 + dim * math.log(2 * math.pi * std**2))


def _quadratic_forms(x: Tensor, y: Tensor, vectors: list[Tensor]) -> Tensor:
    """v^T (dy/dx) v of every sample for every v, (B, len(vectors)).

    By reverse mode, which every network has; forward mode would need attention without its fused kernels.
    """
    forms = []
    for k, v in enumerate(vectors):
        (row,) = torch.autograd.grad(y, x, v, retain_graph=k + 1 < len(vectors))
        forms.append((row * v).flatten(1).sum(1))
    return torch.stack(forms, 1)


@torch.no_grad()
def _solve(drift, state: Tensor, sigma: float, sigma_next: float, rtol: float, atol: float) -> Tensor:
    """Integrate dx / d ln sigma = drift(ln sigma, x) from sigma to sigma_next, up or down."""
    from torchdiffeq import odeint

    state = state.to(state_dtype(state.device))
    if not bool(state.isfinite().all()):
        raise ValueError("the samples hold values that are not finite")
    ends = torch.tensor([math.log(sigma), math.log(sigma_next)], dtype=state.dtype, device=state.device)
    # The largest error: torchdiffeq's root mean square over the batch would let one bad sample hide behind many good ones.
    # A step ends at the last level: else the solver goes beyond it, where the model may know nothing, and interpolates back.
    options = {"norm": lambda error: error.abs().max(), "step_t": ends[1:]}
    try:
        states = odeint(drift, state, ends, rtol=rtol, atol=atol, method="dopri5", options=options)
    except AssertionError as error:  # torchdiffeq's way to say that a step shrank to nothing or left the numbers
        reason = str(error).split(":")[0]
        raise FloatingPointError(f"the PF-ODE could not be solved ({reason}): try a larger rtol and atol") from error
    assert isinstance(states, Tensor)
    return states[-1]


def _checked(
    denoise: Denoise,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rtol: float = TOLERANCE,
    atol: float = TOLERANCE,
) -> tuple[float, float, float, float]:
    """The two ends of the ODE and its tolerances, after everything that could be wrong with a call was looked at."""
    low, high = level_range(denoise)
    low, high = low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max
    if not 0 < low < high:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {low} and {high}")
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol and atol must be above 0, got {rtol} and {atol}")
    traits = traits_of(denoise)
    if traits.consistency:
        raise ValueError("a consistency model jumps along the PF-ODE, it is not its drift: take a diffusion model")
    lowest, highest = traits.levels
    if low < lowest or high > highest:
        raise ValueError(f"this model knows noise levels from {lowest:.4g} to {highest:.4g}: keep sigma_min and sigma_max in")
    if isinstance(denoise, nn.Module):
        if denoise.training:
            raise ValueError("the model is in training mode, where dropout changes it from call to call: call model.eval() first")
        finest = max((_FINEST[p.dtype.itemsize] for p in denoise.parameters()), default=0.0)
        if min(rtol, atol) < finest:
            raise ValueError(f"tolerances below {finest:g} are finer than the rounding of this network: pass model.double()")
    return low, high, rtol, atol
