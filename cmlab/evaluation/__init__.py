"""How good samples are: metrics, features, classifiers, reports and model cards."""

from .points import ToyTest, is_consistency, paired_rms, sliced_wasserstein, toy_report

__all__ = ["ToyTest", "is_consistency", "paired_rms", "sliced_wasserstein", "toy_report"]
