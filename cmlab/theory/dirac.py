"""Why consistency training must not average its target: an example that can be solved by hand (after iCT, arXiv 2310.14189).

The data are a single point xi, and f_theta(x, t) = (eps/t) x + (1 - eps/t) theta with eps the lowest noise level. At theta = xi
this is the exact consistency function.
"""

from ..noise import SIGMA_MIN, karras_sigmas


def dirac_gradient(n: int, *, gap: float = 1.0, lag: float = 0.0) -> float:
    """(N - 1) dL_CT/dtheta on the Karras grid of ``n`` levels, for the squared error and weight 1.

    As N grows it tends to ``gap`` where ``lag`` is 0. Otherwise it grows like N: the average then decides, and not the data.

    Args:
        gap: theta - xi, how far the model is from the data.
        lag: theta - theta_target, how far a moving average stays behind; 0 is a target that is the model itself.

    Raises ValueError for a grid of fewer than two levels.
    """
    if n < 2:
        raise ValueError(f"a pair of levels needs a grid of at least 2, got {n}")
    sigmas = karras_sigmas(n)
    t, below = sigmas[:-1], sigmas[1:]
    # f_theta(xi + t z, t) - f_target(xi + r z, r): the noise cancels, since both add eps z.
    difference = (1 - SIGMA_MIN / t) * gap - (1 - SIGMA_MIN / below) * (gap - lag)
    return float((n - 1) * (2 * difference * (1 - SIGMA_MIN / t)).mean())
