"""A judge of the bundled digits beside the classifier that ships: a support vector machine, blind to hue and contrast."""

from functools import lru_cache

import numpy as np
from sklearn.svm import SVC
from torch import Tensor

from cmlab.data import digits, held_out, load_images
from cmlab.denoiser import Denoiser, classes_in_turn
from cmlab.editing import luma
from cmlab.evaluation import is_consistency
from cmlab.noise import seeds_from
from cmlab.samplers import plan, sample


def digit_features(x: Tensor) -> np.ndarray:
    """Grey or RGB digits (B, C, 8, 8) as luma, each picture stretched to [0, 1] and flattened: blind to hue and contrast."""
    flat = (luma(x.float()) if x.shape[1] == 3 else x.float()).flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(1e-6)).numpy()


@lru_cache(maxsize=2)
def digit_classifier(data: str = "digits"):
    """A support vector machine on two thirds of the real digits, and its accuracy on the other third of the scans."""
    images = load_images(data)
    assert images.label is not None
    scans = len(digits().x0)
    test = held_out(scans).repeat(len(images.x0) // scans)  # all colourings of a scan fall on the same side
    features, label = digit_features(images.x0), images.label.numpy()
    model = SVC(C=10.0, gamma="scale").fit(features[~test], label[~test])
    return model, float(model.score(features[test], label[test]))


def digit_accuracy(model: Denoiser, data: str, sampler: str, steps: int, n: int = 2000, seed: int = 0) -> float:
    """Share of ``n`` class-conditional samples that the classifier puts into the class that was asked for."""
    label = classes_in_turn(10, n)
    assert label is not None
    x = sample(model, model.shape, seeds_from(seed, n), sampler, steps, label=label)
    return float((digit_classifier(data)[0].predict(digit_features(x)) == label.numpy()).mean())


def digit_report(model: Denoiser, data: str) -> dict[str, float]:
    """Classifier accuracy on class-conditional samples made as `samplers.plan` says, of a consistency model in two steps, too."""
    usual, consistency = plan(model), is_consistency(model)
    ways = {"1 step": usual, "2 steps": plan(model, steps=2)} if consistency else {f"{usual.steps} Heun steps": usual}
    report = {"classifier on real digits": digit_classifier(data)[1]}
    return report | {name: digit_accuracy(model, data, how.sampler, how.steps) for name, how in ways.items()}
