"""NVlabs/edm: its losses on the tiny network, and their gradients."""

import torch
from conftest import KnownDraws
from torch import Tensor

from cmlab.losses import DenoisingLoss
from cmlab.methods.scalings import LogUniform, VPTime
from cmlab.schedules import LogNormal

from .base import F32_ELEMENTARY, F32_GRADIENT, F32_NETWORK, Check, runs
from .precond import label_of, net_calls, precond_of, wrap
from .toys import Calls, gradient


def augmented(case, x0: Tensor) -> Tensor:
    """The original's stand-in for its augmentation."""
    return 0.5 * x0.flip(-1) if case.has("in", "augment_labels") else x0


# The originals' arguments, whose defaults are cmlab's too.
EDM_LOSSES = {
    "EDMLoss": lambda P_mean=-1.2, P_std=1.2, sigma_data=0.5: DenoisingLoss(LogNormal(P_mean, P_std), "karras", sigma_data),
    "VPLoss": lambda beta_d=19.9, beta_min=0.1, epsilon_t=1e-5: DenoisingLoss(
        VPTime(beta_d, beta_min, epsilon_t), "snr", scalings="density"
    ),
    "VELoss": lambda sigma_min=0.02, sigma_max=100.0: DenoisingLoss(LogUniform(sigma_min, sigma_max), "snr", scalings="density"),
}


@runs("g_edm_losses.*", *EDM_LOSSES)
def edm_losses(case):
    s, dtype = case.scalars, torch.float32
    loss = EDM_LOSSES[case.fn.split(".")[0]](**(s["loss_args"] or {}))
    given = s.get("precond_args") or {}
    precond = precond_of(s["precond"], given)
    if not s["loss_args"] and not given and case.fn.split("Loss")[0] == s["precond"].split("Precond")[0]:
        assert loss.precond == precond  # the column of EDM's Table 1 that belongs to the loss
    x0, rnd = augmented(case, case.input("images", dtype)), case.input("rnd", dtype).flatten()
    model = wrap(case, precond, case.params(dtype), tuple(x0.shape[1:]))
    calls = Calls(model)
    noise = case.input("noise", dtype)
    normal = isinstance(loss.density, LogNormal)
    out = loss(model, x0, label_of(case), draws=KnownDraws([rnd, noise] if normal else [noise], [] if normal else [rnd]))
    ((_, _, denoised),) = calls
    each = out.weight[:, None, None, None] * (denoised - x0) ** 2
    assert torch.allclose(each.flatten(1).sum(1), out.loss, rtol=1e-4)  # the sum over pixels is what cmlab returns
    yield Check("loss", each, F32_NETWORK)
    (out.loss.sum() / x0.numel()).backward()
    yield Check("c_noise", net_calls(model)[0][1], F32_ELEMENTARY)
    for name in case.names("out"):
        if name.startswith("grad_"):
            yield Check(name, gradient(model, name.removeprefix("grad_")), F32_GRADIENT)
