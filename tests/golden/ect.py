"""ECT: its mapping of levels, its preconditioner, and its loss with gradients."""

import math
from typing import Any

import torch
from conftest import KnownDraws

from cmlab.denoiser import Precond
from cmlab.distances import Distance
from cmlab.losses import ConsistencyLoss
from cmlab.schedules import EctPairs

from .base import F32_ELEMENTARY, F32_GRADIENT, F32_NETWORK, F64, Check, runs
from .edm_losses import augmented
from .precond import label_of, net_calls, wrap
from .toys import gradient


def ect_pairs(s: dict[str, Any], adj: str) -> EctPairs:
    """ECT's own pairs: neither ends nor a least distance. At progress 1 they are at the case's stage."""
    spread = {"mean": s["P_mean"], "std": s["P_std"]} if "P_mean" in s else {}
    k = s["k"] if adj == "sigmoid" else 0.0
    return EctPairs(s["q"], s["stage"] + 1, k, s["b"], sigma_min=0.0, sigma_max=math.inf, closest=0.0, **spread)


@runs("h_ect.*", "ECMLoss.t_to_r_const", "ECMLoss.t_to_r_sigmoid")
def ect_mapping(case):
    pairs = ect_pairs(case.scalars, case.fn.rsplit("_", 1)[1])
    yield Check("r", pairs.below(case.input("t"), pairs.stage(1.0)), F64)


@runs("h_ect.*", "ECMPrecond.forward")
def ect_precond(case):
    s = case.scalars
    precond = Precond(s["sigma_data"], 0.0 if s["training"] else s["sigma_min"])
    x = case.input("x")
    model = wrap(case, precond, case.params(torch.float32), tuple(x.shape[1:]))
    with torch.no_grad():
        denoised = model(x, case.input("sigma"), label_of(case))
        net_x, c_noise = net_calls(model)[0]
        raw = model.net(net_x, c_noise, label_of(case))
    yield Check("net_x", net_x, F32_ELEMENTARY)
    yield Check("c_noise", c_noise, F32_ELEMENTARY)
    yield Check("F", raw, F32_NETWORK)
    yield Check("D", denoised, F32_NETWORK)


@runs("h_ect.*", "ECMLoss.__call__")
def ect_loss(case):
    s, dtype = case.scalars, torch.float32
    pairs = ect_pairs(s, s["adj"])
    loss = ConsistencyLoss(pairs, "noise", Distance("huber", s["c"]), "1/dt", sigma_data=s["sigma_data"])
    x0, z = augmented(case, case.input("images", dtype)), case.input("z").flatten()
    model = wrap(case, Precond(s["sigma_data"]), case.params(dtype), tuple(x0.shape[1:]))
    out = loss(model, x0, label_of(case), progress=1.0, draws=KnownDraws([z, case.input("eps", dtype)]))
    assert len(net_calls(model)) == s["n_net_calls"]
    out.loss.mean().backward()
    t, r = pairs(len(z), 1.0, KnownDraws([z]))
    yield Check("t", t.reshape(-1, 1, 1, 1), F32_ELEMENTARY)
    yield Check("r", r.reshape(-1, 1, 1, 1), F32_ELEMENTARY)
    # Answers that differ by rounding are subtracted and divided by t - r: at q = 256 that takes two digits more.
    near = float((t / (t - r)).max()) * torch.finfo(dtype).eps
    yield Check("loss", out.loss, max(F32_NETWORK, 8 * near))
    for name in case.names("out"):
        if name.startswith("grad_"):
            yield Check(name, gradient(model, name.removeprefix("grad_")), max(F32_GRADIENT, 64 * near))
