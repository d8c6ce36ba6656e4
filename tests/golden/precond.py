"""NVlabs/edm: the four preconditioners around a tiny network."""

import torch
from torch import Tensor, nn

from cmlab.denoiser import Denoiser, IDDPMPrecond, Precond, VEPrecond, VPPrecond
from cmlab.sde import VP

from .base import F32_ELEMENTARY, F32_NETWORK, Check, runs


class TinyNet(nn.Module):
    """GOLDEN.md, section 2: F[b,o] = V tanh(A c_in x + b + a c_noise / 300 + L labels + G augment) + d."""

    def __init__(self, params: dict[str, Tensor]):
        super().__init__()
        self.p = nn.ParameterDict({k: nn.Parameter(v) for k, v in params.items()})
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.augment: Tensor | None = None

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls.append((x, c_noise))
        h = torch.einsum("kc,bcij->bkij", self.p["A"], x)
        bias = self.p["b"] + self.p["a"] * c_noise[:, None] / 300
        if label is not None:
            bias = bias + self.p["L"].T[label.clamp_min(0)] * (label >= 0)[:, None]
        if self.augment is not None:
            bias = bias + self.augment @ self.p["G"].T
        h = h + bias[:, :, None, None]
        return torch.einsum("ok,bkij->boij", self.p["V"], h.tanh()) + self.p["d"][:, None, None]


def label_of(case) -> Tensor | None:
    """The case's one-hot rows as class numbers."""
    return case.input("class_labels").argmax(1) if case.has("in", "class_labels") else None


def wrap(case, precond, params: dict[str, Tensor], shape: tuple[int, ...], classes: int | None = None) -> Denoiser:
    """The case's tiny network under cmlab's own Denoiser."""
    net = TinyNet(params)
    if case.has("in", "augment_labels"):
        net.augment = case.input("augment_labels", net.p["A"].dtype)
    classes = case.scalars.get("label_dim", 0) if classes is None else classes
    return Denoiser(net, precond, shape, classes, drops_labels=classes > 0)


KINDS = {"EDMPrecond": Precond, "VPPrecond": VPPrecond, "VEPrecond": VEPrecond, "iDDPMPrecond": IDDPMPrecond}


@runs("g_edm_precond.*", *KINDS)
def preconditioner(case):
    precond = KINDS[case.fn.split(".")[0]]()
    x, sigma = case.input("x"), case.input("sigma")
    model = wrap(case, precond, case.params(torch.float32), tuple(x.shape[1:]))
    with torch.no_grad():
        denoised = model(x, sigma, label_of(case))
        assert isinstance(model.net, TinyNet)
        net_x, c_noise = model.net.calls[0]
        raw = model.net(net_x, c_noise, label_of(case))
    yield Check("net_x", net_x, F32_ELEMENTARY)
    yield Check("c_noise", c_noise, F32_ELEMENTARY)
    yield Check("F", raw, F32_NETWORK)
    yield Check("D", denoised, F32_NETWORK)
    if case.has("in", "t_q"):
        schedule = VP()
        t = case.input("t_q")
        yield Check("sigma_of_t", schedule.sigma(t), F32_ELEMENTARY)
        yield Check("t_of_sigma", schedule.time(schedule.sigma(t)), F32_ELEMENTARY)
    if case.has("in", "q"):
        q = case.input("q")
        yield Check("u", precond.table, F32_ELEMENTARY)
        yield Check("round_sigma", precond.round(q), F32_ELEMENTARY)
        yield Check("round_index", precond.nearest(q), 0)
