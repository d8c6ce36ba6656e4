"""Write the README.md of cmlab/pretrained/features: accuracies, and how FD-cls orders real images that were damaged.

python benchmarks/classifier.py       (minutes; CIFAR-10 in $CMLAB_DATA)

A classifier itself is made by ``cmlab train cifar10-classifier`` and copied there.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from cmlab.evaluation.classifier import PRETRAINED, Split, classifier_names, load_classifier, resolve_classifier, splits
from cmlab.evaluation.classifier_training import CLASSIFIER_PRESETS
from cmlab.evaluation.features import ClassifierFeatures, extract, spread
from cmlab.evaluation.metrics import Reference, error_bar, frechet_distance, value_of


def damaged(name: str) -> tuple[Split, dict[str, Tensor]]:
    """Half of the training images of a set, and equally many uint8 images (n, C, H, W) of each kind to compare them with."""
    train, test, _ = splits(name)
    assert test.label is not None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    first, second = (Split(train.data, train.index[rows].sort().values) for rows in order.tensor_split(2))
    pixels, label, classes = test.pixels(slice(None)), test.label, test.data.classes
    n = min(int((label < classes // 2).sum()), len(second))
    x = spread(test, n).pixels(slice(None)).float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    sets = {"the other half of the training images": spread(second, n).pixels(slice(None)).float(), "test images": x}
    sets |= {f"blurred, width {w:g} pixels": gaussian_blur(x, [7, 7], [w, w]) for w in (0.4, 0.6, 1.0)}
    sets |= {f"with noise of {s:g}": x + 127.5 * s * noise for s in (0.05, 0.1, 0.2, 0.4)}
    for dropped in (1, 2, 5):
        kept = (label >= dropped).nonzero()[:, 0]
        sets[f"without {dropped} of {classes} classes"] = pixels[kept[torch.arange(n) * len(kept) // n]].float()
    return first, {what: v.round().clamp(0, 255).to(torch.uint8) for what, v in sets.items()}


def order_table(name: str) -> list[str]:
    """How FD-cls ranks real images and damaged ones, as Markdown; raises RuntimeError where it does not rank as it should."""
    extractor = ClassifierFeatures(name)
    first, sets = damaged(CLASSIFIER_PRESETS[f"{name}-classifier"].data[0])
    reference = Reference(extract(extractor, first.batches(256)))
    fakes = {what: extract(extractor, x.split(256)) for what, x in sets.items()}
    found = {k: (value_of(frechet_distance, x, reference), error_bar(frechet_distance, x, reference, 20)) for k, x in fakes.items()}
    for kind in ("blurred", "with noise", "without"):  # each kind from little to much
        ladder = [found["test images"], *(value for what, value in found.items() if what.startswith(kind))]
        if any(worse < better - 2 * error for (better, error), (worse, _) in pairwise(ladder)):
            raise RuntimeError(f"{name}: {kind} {ladder}")
    n = len(next(iter(sets.values())))
    lines = [
        "",
        f"## {name}: FD-cls to one half of the training images ({len(first)}), {n} images each",
        "",
        "| images | FD-cls |",
        "|---|---|",
    ]
    return lines + [f"| {what} | {value:.3f} ± {error:.3f} |" for what, (value, error) in found.items()]


def write_readme() -> None:
    lines = [
        "# Classifiers whose features stand in for Inception's",
        "",
        "Written by `benchmarks/classifier.py`. A Frechet distance on their features is called FD-cls, never FID: it orders",
        "samples of one data set, and cannot be compared with published figures. Accuracy: on images that were not trained on.",
        "",
        "| classifier | command | seconds | kB | features | held-out accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for name in classifier_names():
        path = resolve_classifier(name)
        loaded = load_classifier(path)
        known = "; ".join(f"{data}: {value}" for data, value in loaded.about["accuracy"].items())
        size, width = path.stat().st_size / 1e3, sum(loaded.model.config.channels)
        lines.append(f"| {name} | `{loaded.about['command']}` | {loaded.about['seconds']} | {size:.0f} | {width} | {known} |")
    lines += [
        "",
        "Below: noise by its standard deviation in images of [-1, 1]; errors from 20 bootstrap sets. The distance should grow with",
    ]
    lines += ["each kind of damage, and does up to two errors: the script stops where it does not."]
    for name in classifier_names():
        lines += order_table(name)
    (PRETRAINED / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_readme()
