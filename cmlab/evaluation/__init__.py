"""How good samples are: metrics, features, classifiers, reports and model cards."""

from .points import (
    ToyTest,
    digit_accuracy,
    digit_classifier,
    digit_features,
    digit_report,
    is_consistency,
    paired_rms,
    sliced_wasserstein,
    toy_report,
)

__all__ = [
    "ToyTest",
    "digit_accuracy",
    "digit_classifier",
    "digit_features",
    "digit_report",
    "is_consistency",
    "paired_rms",
    "sliced_wasserstein",
    "toy_report",
]
