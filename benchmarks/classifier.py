"""Train the classifier whose features stand in for Inception's (FD-cls), and put it into cmlab/pretrained/features.

python benchmarks/classifier.py digits         (seconds, one core)
python benchmarks/classifier.py --readme       only writes that folder's README.md again
"""

import sys
import time

import torch

from cmlab.classifier import (
    PRETRAINED,
    Classifier,
    ClassifierConfig,
    Split,
    accuracy,
    classifier_names,
    load_classifier,
    resolve_classifier,
    save_classifier,
    splits,
    train_classifier,
)

# Data sets to train on in turn, and how.
RECIPES = {
    "digits": (["digits", "digits-color"], ClassifierConfig((24, 48), 1), {"steps": 1500, "shift": 1}),
    "cifar10": (
        ["cifar10"],
        ClassifierConfig((32, 64, 128, 256), 1),
        {"steps": 12_000, "shift": 4, "flip": True, "smoothing": 0.1, "precision": "bf16"},
    ),
}


def make(name: str) -> None:
    sets, config, how = RECIPES[name]
    divided: dict[str, tuple[Split, Split, str]] = {data: splits(data) for data in sets}
    started = time.perf_counter()
    model: Classifier | None = None
    for state in train_classifier([divided[data][0] for data in sets], config, **how):
        step, loss, model = state
        if step % 250 == 0:
            print(f"step {step} loss {loss:.4f}", flush=True)
    assert model is not None
    seconds = round(time.perf_counter() - started, 1)
    class_names = list(divided[sets[0]][0].data.class_names)
    about = {
        "data": sets,
        "class_names": class_names,
        "command": f"python benchmarks/classifier.py {name}",
        "seconds": seconds,
        **how,
    }
    path = save_classifier(PRETRAINED / f"{name}.safetensors", model, about)
    stored = load_classifier(path).model  # rounded to half precision: its accuracy is the one that counts
    about["accuracy"] = {data: round(accuracy(stored, divided[data][1]), 4) for data in sets}
    save_classifier(path, model, about)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {seconds} s, held-out accuracy {about['accuracy']}")


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
    (PRETRAINED / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        if argument != "--readme":
            make(argument)
    write_readme()
