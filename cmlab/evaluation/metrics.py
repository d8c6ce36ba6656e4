"""Distances between sets of features, each with a bootstrap error bar.

Every metric is a function of `Features` of n samples, of a `Reference`, and of weights (B, n), how often each sample counts in B
resampled sets. Weights of one give the figure, weights from `bootstrap_weights` its error bar. Everything runs in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NEIGHBOURS = 3  # of precision and recall (Kynkaanniemi et al., 2019)
_ROWS = 2048  # of the large matrices that are held at a time


@dataclass(frozen=True, eq=False)
class Features:
    """What an extractor says of n images: features (n, d) and logits (n, classes), float32; label (n,) where it is known."""

    features: Tensor
    logits: Tensor
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> "Features":
        return Features(self.features[rows], self.logits[rows], None if self.label is None else self.label[rows])


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of real images, with what several comparisons share computed once."""

    real: Features

    @cached_property
    def points(self) -> Tensor:
        return self.real.features.double()

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        mean, covariance = moments(self.points, torch.ones(1, len(self.points), dtype=torch.float64))
        return mean[0], covariance[0]

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.moments[1])
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T

    @cached_property
    def self_similarity(self) -> Tensor:
        """Mean kernel of two different real images, (); of 10,000 of them where there are more, which leaves it unbiased."""
        some = self.points[:: -(-len(self.points) // 10_000)]
        return _mean_kernel(some, torch.ones(1, len(some), dtype=torch.float64))[0]

    @cached_property
    def radii(self) -> Tensor:
        """Distance of each real image to its third neighbour, (m,)."""
        return _radii(self.points)


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, d) and unbiased covariances (B, d, d) of ``x`` (n, d), each row counted as often as ``weights`` (B, n) says."""
    total = weights.sum(1)
    mean = weights @ x / total[:, None]
    covariance = []
    for row, centre, count in zip(weights, mean, total, strict=True):  # one after the other: (B, n, d) would be large
        centred = x - centre
        covariance.append((centred * row[:, None]).T @ centred / (count - 1))
    return mean, torch.stack(covariance)


def frechet_distance(fake: Features, reference: Reference, weights: Tensor) -> Tensor:
    """Squared Frechet distance of two Gaussians with the sets' moments, (B,) (Heusel et al., 2017, eq. 6).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); C1 C2 has the eigenvalues of the symmetric C2^(1/2) C1 C2^(1/2).
    """
    mean, covariance = reference.moments
    out = []
    for row in weights:  # covariances of many resampled sets at once would not fit into memory
        (m,), (c,) = moments(fake.features.double(), row[None])
        eigenvalues = torch.linalg.eigvalsh(reference.root @ c @ reference.root)
        out.append((m - mean).square().sum() + c.trace() + covariance.trace() - 2 * eigenvalues.clamp_min(0).sqrt().sum())
    return torch.stack(out)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    k = a @ b.T / a.shape[1] + 1
    return k * k * k


def _mean_kernel(x: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the kernel of two different rows of ``x``, (B,): a sample that counts twice is no pair with itself."""
    total = torch.zeros(len(weights), dtype=torch.float64)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        k = _kernel(x[rows], x)
        k[torch.arange(len(k)), torch.arange(len(k)) + start] = 0
        total += (weights[:, rows] * (weights @ k.T)).sum(1)
    return total / (weights.sum(1).square() - weights.square().sum(1))


def kernel_distance(fake: Features, reference: Reference, weights: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy for the kernel (x.y / d + 1)^3, (B,) (Binkowski et al., 2018).

    Over all pairs, where KID takes the mean over random subsets. Equal distributions give 0 on average, so it may be negative.
    """
    x, real = fake.features.double(), reference.points
    across = torch.cat([_kernel(part, real).mean(1) for part in x.split(_ROWS)])
    return _mean_kernel(x, weights) + reference.self_similarity - 2 * (weights @ across) / weights.sum(1)


def inception_score(fake: Features, reference: Reference, weights: Tensor) -> Tensor:
    """exp of the mean Kullback-Leibler divergence of p(class | image) from its mean, (B,) (Salimans et al., 2016)."""
    log_p = fake.logits.double().log_softmax(1)
    p = log_p.exp()
    mean = weights @ p / weights.sum(1, keepdim=True)
    negative_entropy = weights @ (p * log_p).sum(1) / weights.sum(1)
    return (negative_entropy - (mean * mean.clamp_min(1e-300).log()).sum(1)).exp()


def _radii(x: Tensor) -> Tensor:
    k = min(NEIGHBOURS + 1, len(x))  # the first neighbour is the point itself
    return torch.cat([torch.cdist(part, x).kthvalue(k).values for part in x.split(_ROWS)])


def precision(fake: Features, reference: Reference, weights: Tensor) -> Tensor:
    """Share of samples that lie no further from a real image than that image's third neighbour does, (B,)."""
    parts = fake.features.double().split(_ROWS)
    inside = torch.cat([(torch.cdist(part, reference.points) <= reference.radii).any(1) for part in parts])
    return weights @ inside.double() / weights.sum(1)


def recall(fake: Features, reference: Reference, weights: Tensor) -> Tensor:
    """Share of real images that lie no further from a sample than that sample's third neighbour does, (B,)."""
    x, present = fake.features.double(), (weights > 0).double().T
    radii = _radii(x)
    found = [((torch.cdist(part, x) <= radii).double() @ present > 0).double().sum(0) for part in reference.points.split(_ROWS)]
    return torch.stack(found).sum(0) / len(reference.points)


def class_accuracy(fake: Features, reference: Reference, weights: Tensor) -> Tensor:
    """Share of samples that the classifier puts into the class that was asked for, (B,)."""
    if fake.label is None:
        raise ValueError("accuracy needs the class that each sample was asked for: leave it out of --metrics")
    return weights @ (fake.logits.argmax(1) == fake.label).double() / weights.sum(1)


def bootstrap_weights(n: int, replicates: int, seed: int = 0) -> Tensor:
    """How often each of ``n`` samples is drawn when n are drawn with replacement: (replicates, n) float64."""
    drawn = torch.randint(n, (replicates, n), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(replicates, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(1, 1).double().expand_as(drawn))


Metric = Callable[[Features, Reference, Tensor], Tensor]


def value_of(metric: Metric, fake: Features, reference: Reference) -> float:
    """A metric's value, every sample counted once."""
    return float(metric(fake, reference, torch.ones(1, len(fake), dtype=torch.float64)))


def error_bar(metric: Metric, fake: Features, reference: Reference, replicates: int) -> float:
    """Standard deviation of a metric over ``replicates`` resampled sets of samples; the reference stays.

    Of a distance that is as small as its floor, resampling overstates the deviation, by up to the square root of 3.
    """
    return float(metric(fake, reference, bootstrap_weights(len(fake), replicates)).std())


METRICS: dict[str, Metric] = {
    "fd": frechet_distance,
    "kd": kernel_distance,
    "is": inception_score,
    "precision": precision,
    "recall": recall,
    "accuracy": class_accuracy,
}
