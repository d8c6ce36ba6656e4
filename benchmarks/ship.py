"""Measure trained checkpoints and put them into cmlab/pretrained with the figures in their headers.

    python benchmarks/ship.py runs/two-moons-edm.safetensors runs/two-moons-cd.safetensors ...
    python benchmarks/ship.py            only writes cmlab/pretrained/README.md again

A student is compared with the teacher of the same data set, which must lie beside it or be bundled already.
"""

import shutil
import sys
from pathlib import Path

import torch
from digits import digit_report

from cmlab.data import TOYS
from cmlab.evaluation import is_consistency, toy_report
from cmlab.evaluation.features import extractor_for
from cmlab.formats import checkpoints
from cmlab.training.presets import find, get_preset


def measure(path: Path) -> dict[str, float]:
    model, meta = checkpoints.load(path)
    data = get_preset(meta["about"]["preset"]).data
    if data not in (*TOYS, "digits", "digits-color"):  # measured by the chain that made it
        usual = extractor_for("classifier", data).title
        ways = {
            f"{way['sampler']} {way['steps']}" + ("" if way["features"] == usual else f" ({way['features'].split()[1]})"): way[
                "figures"
            ]
            for way in meta["about"]["measured"].values()
        }
        return {f"{row['name']}, {way}": round(row["value"], 4) for way, rows in ways.items() for row in rows}
    if data not in TOYS:
        report = digit_report(model, data)
    else:
        teacher = checkpoints.load(find(f"{data}-edm"))[0] if is_consistency(model) else None
        report = toy_report(model, data, teacher)
    return {key: round(value, 4) for key, value in report.items()}


def ship(path: Path) -> None:
    quality, about = measure(path), checkpoints.read_meta(path)["about"]
    shipped = shutil.copy(path, checkpoints.PRETRAINED / path.name)
    print(checkpoints.keep_about(shipped, {**about, "quality": quality}), quality)


def write_readme() -> None:
    lines = [
        "# Checkpoints that ship with cmlab",
        "",
        "Written by `python benchmarks/ship.py`. Each was made by the command beside it, on one CPU thread, seed 0.",
        "MNIST and CIFAR-10 in bfloat16, its iCT in float32. Seconds: as it was run, beside other jobs; 2D and digits alone",
        "take half or less (`benchmarks/run.py`). 2D: sliced",
        "Wasserstein distance, 20,000 points, 256 directions, floor = data against data. Digits: share of 2,000 class-conditional",
        "samples that a classifier (accuracy on held-out scans beside it) puts into the class that was asked for.",
        "CIFAR-10 and MNIST: Frechet and kernel distance on the shipped classifier's features, and its accuracy on the class",
        "that was asked for, of 10,000 samples; `cmlab info NAME` has the error bars.",
        "",
        "| checkpoint | command | seconds | kB | measured |",
        "|---|---|---|---|---|",
    ]
    for name in checkpoints.pretrained_names():
        about = checkpoints.read_meta(name)["about"]
        quality = "; ".join(f"{key}: {value}" for key, value in about["quality"].items())
        size = checkpoints.resolve(name).stat().st_size / 1e3
        lines.append(f"| {name} | `{about['command']}` | {about['seconds']:.0f} | {size:.0f} | {quality} |")
    total = sum(checkpoints.resolve(name).stat().st_size for name in checkpoints.pretrained_names())
    lines += ["", f"Together {total / 1e6:.2f} MB."]
    (checkpoints.PRETRAINED / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        ship(Path(argument))
    write_readme()
