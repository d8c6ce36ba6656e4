"""Guidance, spherical interpolation and augmentation written a second time, in numpy and in the originals' own coordinates.

None of it uses cmlab. ``python tests/golden/originals.py`` writes the reference files l_guidance, m_slerp and n_augment; a test
checks that they hold what this file computes.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
HERE = Path(__file__).parents[1] / "reference"

# --- guidance: Dhariwal and Nichol's Algorithms 1 and 2, Ho and Salimans' eq. 6, on the VP state ---------------------------


class VPMixture:
    """Classes k of equal weight, N(means[k], var I), seen at the VP state y = sqrt(abar) x0 + sqrt(1 - abar) eps."""

    def __init__(self, means: np.ndarray, var: float):
        self.means, self.var = means, var

    def score(self, y: np.ndarray, abar: float, k: np.ndarray | None = None) -> np.ndarray:
        """Gradient of ln p(y), or of ln p(y | k)."""
        away = np.sqrt(abar) * self.means[:, None] - y  # (K, B, d)
        each = away / (abar * self.var + 1 - abar)
        if k is not None:
            return each[k, np.arange(len(y))]
        log = -(away**2).sum(-1) / (2 * (abar * self.var + 1 - abar))
        share = np.exp(log - log.max(0))
        return (share[..., None] * each).sum(0) / share.sum(0)[:, None]

    def eps(self, y: np.ndarray, abar: float, k: np.ndarray | None = None) -> np.ndarray:
        """The noise that a perfect network predicts."""
        return -np.sqrt(1 - abar) * self.score(y, abar, k)

    def class_gradient(self, y: np.ndarray, abar: float, k: np.ndarray) -> np.ndarray:
        """Gradient of ln p(k | y)."""
        return self.score(y, abar, k) - self.score(y, abar)


def ddpm_steps(steps: int) -> np.ndarray:
    """abar of every (1000 / steps)-th of DDPM's 1000 linear steps, the noisiest first, with 1 at the end."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[1000 // steps - 1 :: 1000 // steps]
    return np.append(abar[::-1], 1.0)


def guided_ddpm(model: VPMixture, y: np.ndarray, k: np.ndarray, abar: np.ndarray, noise: np.ndarray, scale: float) -> np.ndarray:
    """Algorithm 1: x_{t-1} ~ N(mu + s Sigma grad ln p(k | x_t), Sigma), Sigma the posterior's variance. All states."""
    states = []
    for i, (a, before) in enumerate(pairwise(abar)):
        alpha = a / before
        mean = (y - (1 - alpha) / np.sqrt(1 - a) * model.eps(y, a)) / np.sqrt(alpha)
        variance = (1 - before) / (1 - a) * (1 - alpha)
        y = mean + scale * variance * model.class_gradient(y, a, k) + np.sqrt(variance) * noise[i]
        states.append(y)
    return np.stack(states)


def guided_ddim(model: VPMixture, y: np.ndarray, k: np.ndarray, abar: np.ndarray, scale: float, free: bool) -> np.ndarray:
    """Algorithm 2; ``free``: without a classifier, eps = (1 + s) eps_k - s eps. All states."""
    states = []
    for a, before in pairwise(abar):
        eps = model.eps(y, a)
        if free:
            eps = (1 + scale) * model.eps(y, a, k) - scale * eps
        else:
            eps = eps - scale * np.sqrt(1 - a) * model.class_gradient(y, a, k)
        y = np.sqrt(before) * (y - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - before) * eps
        states.append(y)
    return np.stack(states)


# --- interpolation: CM, appendix D -----------------------------------------------------------------------------------------


def slerp(z1: np.ndarray, z2: np.ndarray, a: float) -> np.ndarray:
    """sin((1 - a) psi) / sin(psi) z1 + sin(a psi) / sin(psi) z2 with psi the angle between z1 and z2, of each row."""
    cosine = (z1 * z2).sum(1) / np.sqrt((z1**2).sum(1) * (z2**2).sum(1))
    psi = np.arccos(cosine)[:, None]
    return (np.sin((1 - a) * psi) * z1 + np.sin(a * psi) * z2) / np.sin(psi)


# --- augmentation: EDM, appendix F.2, in the frame of its code -------------------------------------------------------------

# Daubechies' sym6, the low-pass filter of the resampling.
SYM6 = np.array(
    [0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
     0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
     0.0017677118642428036, -0.007800708325034148]
)  # fmt: skip
CHANGES = ("xflip", "yflip", "rotate_int", "translate_int", "scale", "rotate_frac", "aniso", "translate_frac", "brightness",
           "contrast", "lumaflip", "hue", "saturation")  # fmt: skip


def affine(a: float, b: float, c: float, d: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    return np.array([[a, b, x], [c, d, y], [0.0, 0.0, 1.0]])


def turn(angle: float) -> np.ndarray:
    return affine(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle))


def doubled(line: np.ndarray) -> np.ndarray:
    """n pixels -> 2 n: zeros between them, then the filter; pixel i spreads to 2 i - 5 ... 2 i + 6."""
    out = np.zeros(2 * len(line) + 22)
    for i, value in enumerate(line):
        out[2 * i + 6 : 2 * i + 18] += value * SYM6
    return out[11 : 11 + 2 * len(line)]


def halved(line: np.ndarray) -> np.ndarray:
    """2 n pixels -> n - 6: the filter at every other one, and three off each end."""
    n = len(line) // 2 - 6
    return np.array([(line[2 * i + 1 : 2 * i + 13] * SYM6).sum() for i in range(n)])


def warped(picture: np.ndarray, back: np.ndarray) -> np.ndarray:
    """One channel (H, W) seen through ``back``, in pixels from the centre, y downwards."""
    h, w = picture.shape
    corners = back @ np.array([[x, y, 1] for x in (-(w - 1) / 2, (w - 1) / 2) for y in (-(h - 1) / 2, (h - 1) / 2)]).T
    margins = []
    for axis, size in ((0, w), (1, h)):
        need = [-corners[axis].min() + 6 - (size - 1) / 2, corners[axis].max() + 6 - (size - 1) / 2]
        margins.append([int(np.ceil(min(max(m, 0), size - 1))) for m in need])
    (left, right), (top, bottom) = margins
    padded = np.pad(picture, ((top, bottom), (left, right)), mode="reflect")
    big = np.apply_along_axis(doubled, 0, np.apply_along_axis(doubled, 1, padded))
    # The centre of the padded picture is another one; then all counts in doubled pixels, from half a pixel further on.
    back = affine(1, 0, 0, 1, (left - right) / 2, (top - bottom) / 2) @ back
    back = affine(2, 0, 0, 2) @ back @ affine(0.5, 0, 0, 0.5)
    back = affine(1, 0, 0, 1, -0.5, -0.5) @ back @ affine(1, 0, 0, 1, 0.5, 0.5)
    rows, columns = 2 * h + 12, 2 * w + 12
    seen = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            x, y, _ = back @ np.array([c + 0.5 - columns / 2, r + 0.5 - rows / 2, 1])
            x, y = x + big.shape[1] / 2 - 0.5, y + big.shape[0] / 2 - 0.5  # from the centre to indices of pixels' middles
            for j in (int(np.floor(y)), int(np.floor(y)) + 1):
                for i in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= j < big.shape[0] and 0 <= i < big.shape[1]:  # bilinear, black outside
                        seen[r, c] += (1 - abs(x - i)) * (1 - abs(y - j)) * big[j, i]
    return np.apply_along_axis(halved, 0, np.apply_along_axis(halved, 1, seen))


def augmented(picture: np.ndarray, drawn: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """One picture (3, H, W) after the changes of ``drawn``, each with the numbers that were drawn for it; its labels."""
    labels, (_, h, w) = [], picture.shape
    if "xflip" in drawn:
        picture = picture[:, :, ::-1] if drawn["xflip"][0] else picture
        labels += [drawn["xflip"][0]]
    if "yflip" in drawn:
        picture = picture[:, ::-1] if drawn["yflip"][0] else picture
        labels += [drawn["yflip"][0]]
    if "rotate_int" in drawn:
        k = drawn["rotate_int"][0]
        picture = picture[:, :, ::-1] if k in (1, 2) else picture
        picture = picture[:, ::-1] if k in (2, 3) else picture
        picture = picture.transpose(0, 2, 1) if k in (1, 3) else picture
        labels += [k in (1, 2), k in (2, 3)]
    if "translate_int" in drawn:
        tx, ty = np.round(drawn["translate_int"][0] * w * 0.125), np.round(drawn["translate_int"][1] * h * 0.125)
        x = (w - 1 - np.abs(w - 1 - (np.arange(w) - tx) % (2 * w - 2))).astype(int)
        y = (h - 1 - np.abs(h - 1 - (np.arange(h) + ty) % (2 * h - 2))).astype(int)
        picture = picture[:, y][:, :, x]
        labels += [tx / (w * 0.125), ty / (h * 0.125)]
    back = np.eye(3)
    if "scale" in drawn:
        s = 2 ** (0.2 * drawn["scale"][0])
        back, labels = back @ affine(1 / s, 0, 0, 1 / s), [*labels, drawn["scale"][0]]
    if "rotate_frac" in drawn:
        angle = (2 * drawn["rotate_frac"][0] - 1) * np.pi
        back, labels = back @ turn(angle), [*labels, np.cos(angle) - 1, np.sin(angle)]
    if "aniso" in drawn:
        z, u, chance = drawn["aniso"]
        axis, s = (2 * u - 1) * np.pi * (chance < 0.5), 2 ** (0.2 * z)
        back = back @ turn(-axis) @ affine(1 / s, 0, 0, s) @ turn(axis)
        labels += [z * np.cos(axis), z * np.sin(axis)]
    if "translate_frac" in drawn:
        x, y = drawn["translate_frac"]
        back, labels = back @ affine(1, 0, 0, 1, -x * w * 0.125, -y * h * 0.125), [*labels, x, y]
    if not np.array_equal(back, np.eye(3)):
        picture = np.stack([warped(channel, back) for channel in picture])
    grey, colours = np.ones(3) / np.sqrt(3), picture.reshape(3, -1)
    along = np.outer(grey, grey)
    if "brightness" in drawn:
        colours, labels = colours + 0.2 * drawn["brightness"][0], [*labels, drawn["brightness"][0]]
    if "contrast" in drawn:
        colours, labels = colours * 2 ** (0.5 * drawn["contrast"][0]), [*labels, drawn["contrast"][0]]
    if "lumaflip" in drawn:
        colours, labels = colours - 2 * drawn["lumaflip"][0] * along @ colours, [*labels, drawn["lumaflip"][0]]
    if "hue" in drawn:
        angle = (2 * drawn["hue"][0] - 1) * np.pi
        across = np.cross(np.eye(3), grey)  # grey x v = across @ v
        colours = np.cos(angle) * colours + np.sin(angle) * across @ colours + (1 - np.cos(angle)) * along @ colours
        labels += [np.cos(angle) - 1, np.sin(angle)]
    if "saturation" in drawn:
        colours = along @ colours + 2 ** drawn["saturation"][0] * (colours - along @ colours)
        labels += [drawn["saturation"][0]]
    return colours.reshape(picture.shape), np.array(labels, dtype=np.float64)


# --- the cases -------------------------------------------------------------------------------------------------------------

Case = tuple[str, str, dict, Arrays, Arrays]  # name, function, settings, inputs, outputs


def guidance_cases() -> Iterator[Case]:
    rng = np.random.default_rng(17)
    means, var, k = rng.normal(size=(3, 5)), 0.3, np.array([0, 1, 2, 0])
    model, y = VPMixture(means, var), rng.normal(size=(4, 5))
    for steps, scale in ((25, 1.0), (25, 4.0), (100, 0.5)):
        abar, noise = ddpm_steps(steps), rng.normal(size=(steps, 4, 5))
        given = {"means": means, "y": y, "label": k, "abar": abar}
        settings = {"var": var, "scale": scale}
        states = guided_ddpm(model, y, k, abar, noise, scale)
        yield f"ddpm_{steps}_{scale:g}", "guided_ddpm", settings, given | {"noise": noise}, {"states": states}
        for free in (False, True):
            states = guided_ddim(model, y, k, abar, scale, free)
            name = "classifier_free_ddim" if free else "guided_ddim"
            yield f"{name}_{steps}_{scale:g}", name, settings, given, {"states": states}


def slerp_cases() -> Iterator[Case]:
    rng = np.random.default_rng(18)
    for name, width, scale in (("noise", 192, 80.0), ("plane", 2, 1.0)):
        z1, z2 = scale * rng.normal(size=(2, 3, width))
        u1, u2 = (z / np.sqrt((z**2).sum(1, keepdims=True)) for z in (z1, z2))
        for a in (0.0, 0.25, 0.5, 0.9, 1.0):
            directions = {"z": slerp(u1 * scale, u2 * scale, a)}
            yield f"{name}_equal_{a:g}", "slerp", {"a": a}, {"z1": u1 * scale, "z2": u2 * scale}, directions
        yield f"{name}_unequal", "slerp", {"a": 0.25}, {"z1": z1, "z2": z2}, {"z": slerp(z1, z2, 0.25)}


def augment_cases() -> Iterator[Case]:
    rng = np.random.default_rng(19)
    drawn: dict[str, list[float]] = {
        "xflip": [1], "yflip": [1], "rotate_int": [3], "translate_int": [0.9, -0.6], "scale": [-1.2], "rotate_frac": [0.83],
        "aniso": [1.4, 0.3, 0.2], "translate_frac": [0.35, -0.8], "brightness": [1.3], "contrast": [-0.7], "lumaflip": [1],
        "hue": [0.71], "saturation": [-1.6],
    }  # fmt: skip
    recipe = ("xflip", "yflip", "scale", "rotate_frac", "aniso", "translate_frac")
    groups = {name: (name,) for name in CHANGES} | {"cifar10": recipe, "everything": CHANGES}
    groups |= {"half_turn": ("rotate_frac",), "quarter_turn": ("rotate_frac",)}
    angles = {"half_turn": [1.0], "quarter_turn": [0.75]}
    for case, names in groups.items():
        # Large enough that no border needs more than one mirror picture, where the original goes on in black.
        sides = (24, 24) if len(names) > 1 else (16, 16) if "rotate_int" in names else (16, 20)
        picture = rng.integers(0, 256, (3, *sides)) / 127.5 - 1
        used = {name: angles.get(case, drawn[name]) for name in names}
        out, labels = augmented(picture, used)
        yield case, "augmented", {"drawn": used}, {"picture": picture}, {"picture": out, "labels": labels}


FILES = {"l_guidance": guidance_cases, "m_slerp": slerp_cases, "n_augment": augment_cases}


def arrays_of(stem: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """All arrays of a reference file by their names in it, and its index."""
    arrays: dict[str, Any] = {}
    cases: dict[str, Any] = {}
    for name, function, settings, given, results in FILES[stem]():
        cases[name] = {"fn": function, "scalars": settings}
        arrays |= {f"{name}/in/{key}": value for key, value in given.items()}
        arrays |= {f"{name}/out/{key}": value for key, value in results.items()}
    return arrays, {"source": "tests/golden/originals.py", "cases": cases}


if __name__ == "__main__":
    for stem in FILES:
        arrays, meta = arrays_of(stem)
        np.savez_compressed(HERE / f"{stem}.npz", meta=np.array(json.dumps(meta)), **arrays)
        print(stem, len(meta["cases"]), "cases,", (HERE / f"{stem}.npz").stat().st_size, "bytes")
