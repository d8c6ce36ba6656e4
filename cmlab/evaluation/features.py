"""Features of images for the metrics: of a small classifier that ships, or of torch-fidelity's Inception; cached for real images.

Images reach an extractor as uint8. Samples are rounded by one of the two conventions in use, real images are uint8 already.
"""

import contextlib
import copy
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ..base.files import user_path, write_whole
from ..data.pictures import cache_folder
from .classifier import (
    Split,
    classifier_for,
    fit_channels,
    load_classifier,
    need_classifier,
    resolve_classifier,
    way_without_inception,
)
from .metrics import METRICS, Features, Metric

Asked = dict[str, dict[str, Metric]]  # by the words of --metrics: each figure's name, and what measures it and says how sure it is


class Extractor(Protocol):
    """Features of uint8 images."""

    id: str  # differs between extractors whose features differ: part of the cache's key
    title: str
    asked: ClassVar[Asked]

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) to features (B, d) and logits (B, classes), float32 on the CPU."""
        ...

    def values(self, word: str, fake: Features, real: Features) -> tuple[float, ...] | None:
        """The figures of ``asked[word]``, where another library than `metrics` computes them; else None."""
        return None

    def numbers(self, class_names: Sequence[str]) -> Tensor | None:
        """Which logits stand for the classes ``class_names`` of a data set, (classes,) int64; None where some have none."""
        return None


class ClassifierFeatures(Extractor):
    """Features of a classifier that knows the data set: `FD-cls` and its like, for comparisons within one data set."""

    asked: ClassVar[Asked] = {
        "fd": {"FD-cls": METRICS["fd"]},
        "kd": {"KD-cls": METRICS["kd"]},
        "is": {"IS-cls": METRICS["is"]},
        "pr": {"precision-cls": METRICS["precision"], "recall-cls": METRICS["recall"]},
        "accuracy": {"class accuracy": METRICS["accuracy"]},
    }

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        loaded = load_classifier(resolve_classifier(name))
        self.shape, self.id, self.device = loaded.model.shape, loaded.id, torch.device(device)
        self.numbers = loaded.numbers
        # a copy, for the one that `load_classifier` keeps stays on the CPU
        self.model = loaded.model if self.device.type == "cpu" else copy.deepcopy(loaded.model).to(self.device)
        known = ", ".join(f"{value:.2%} on {data}" for data, value in loaded.about.get("accuracy", {}).items())
        self.title = f"classifier {self.id.rpartition('-')[0]}" + (f" (accuracy {known})" if known else "")

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.model(fit_channels(pixels, self.shape).to(self.device))
        return features.cpu(), logits.cpu()


class NoWeights(ValueError):
    """Inception's weights are neither here nor to be had."""


INCEPTION = "inception-v3-compat"  # torch-fidelity's name of FID's network
KID_SUBSET = 1000


class InceptionFeatures(Extractor):
    """Features of a network of torch-fidelity, by default FID's own Inception; its figures are computed by that library.

    Args:
        weights: the file of the weights; by default torch-fidelity's own, which is fetched once.
        network: a name in torch-fidelity's registry (`torch_fidelity.register_feature_extractor`).

    Raises ValueError when the library is not installed, or the weights are neither here nor to be had.
    """

    asked: ClassVar[Asked] = {
        "fid": {"FID": METRICS["fd"]},
        "kid": {"KID": METRICS["kd"]},
        "is": {"IS": METRICS["is"]},
        "pr": {"precision": METRICS["precision"], "recall": METRICS["recall"]},
    }

    def __init__(self, weights: str | Path | None = None, device: torch.device | str = "cpu", network: str = INCEPTION):
        try:
            from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
        except ImportError as error:
            raise ValueError("FID needs torch-fidelity: pip install 'cmlab[metrics]'") from error
        if network not in FEATURE_EXTRACTORS_REGISTRY:
            raise ValueError(f"torch-fidelity knows no network {network!r}: register it, or take {INCEPTION}")
        self.device, kind = torch.device(device), FEATURE_EXTRACTORS_REGISTRY[network]
        layers = {word: kind.get_default_feature_layer_for_metric(m) for word, m in (("fd", "fid"), ("is", "isc"))}
        names = list(dict.fromkeys(layers.values()))
        path = inception_weights(weights) if network == INCEPTION else weights
        try:
            self.network = kind(network, names, feature_extractor_weights_path=None if path is None else str(path), verbose=False)
        except RuntimeError as error:
            raise ValueError(f"{path} has weights of another network: {' '.join(str(error).split())[:150]}") from error
        self.network.to(self.device).eval().requires_grad_(False)
        self._places = tuple(names.index(layers[word]) for word in ("fd", "is"))
        self.id = self.title = network
        if path is not None:
            with Path(path).open("rb") as file:
                self.id += f"-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        out = self.network(pixels.to(self.device))
        features, logits = (out[place].cpu() for place in self._places)
        return features, logits

    def values(self, word: str, fake: Features, real: Features) -> tuple[float, ...]:
        """What ``torch_fidelity.calculate_metrics`` gives, with its default settings; KID's subsets hold at most 1,000 images."""
        from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

        a, b = fake.features, real.features
        if word == "fid":
            stats_a, stats_b = (metric_fid.fid_features_to_statistics(x) for x in (a, b))
            return (metric_fid.fid_statistics_to_metric(stats_a, stats_b, False)["frechet_inception_distance"],)
        if word == "kid":
            found = metric_kid.kid_features_to_metric(a, b, kid_subset_size=min(KID_SUBSET, len(a), len(b)), verbose=False)
            return (found["kernel_inception_distance_mean"],)
        if word == "is":
            return (metric_isc.isc_features_to_metric(fake.logits)["inception_score_mean"],)
        found = metric_prc.prc_features_to_metric(a, b, save_cpu_ram=True, verbose=False)
        return found["precision"], found["recall"]


def inception_weights(path: str | Path | None = None) -> Path:
    """The file of FID's Inception weights: ``path``, or torch-fidelity's own, fetched where it is not there yet.

    Raises ValueError that names the file, its address and where to put it; and for a file that holds more than plain weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    name = url.rpartition("/")[2]
    found = Path(torch.hub.get_dir()) / "checkpoints" / name if path is None else user_path(path)
    if not found.is_file():
        if path is not None:
            raise ValueError(f"no Inception weights at {found}: fetch {url} on a machine with a network and put the file there")
        try:
            found.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(found), hash_prefix=name.rpartition("-")[2].split(".")[0], progress=False)
        except (OSError, RuntimeError) as error:  # urllib's are OSErrors too
            way = f"fetch {url} on a machine with a network and put it at {found}, or name it with --weights"
            reason = " ".join(str(error).split())[:90]
            raise NoWeights(f"FID's Inception weights are not here and cannot be fetched ({reason}): {way}") from error
    try:  # torch-fidelity unpickles without looking: what passes here holds tensors alone
        torch.load(found, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch's readers raise whatever a broken file leads them to
        raise ValueError(f"{found} is not a file of plain weights ({type(error).__name__}): fetch {url} again") from error
    return found


def extractor_for(
    features: str, data: str, words: Iterable[str] = (), weights: str | Path | None = None, device: torch.device | str = "cpu"
) -> Extractor:
    """The extractor that ``features`` names: "inception", "classifier" (the one that knows ``data``), a classifier's name or file.

    "auto" takes Inception where FID or KID are asked for or ``weights`` given, or else the classifier that knows ``data``.
    Raises ValueError where there is none, and for weights that would not be used.
    """
    own = classifier_for(data)
    if features == "auto":
        features = "inception" if weights is not None or {"fid", "kid"} & set(words) or own is None else own
    asked = (InceptionFeatures if features == "inception" else ClassifierFeatures).asked
    if unknown := [word for word in words if word not in asked]:
        raise ValueError(f"--metrics {unknown[0]}: with --features {features} there are {','.join(asked)}")
    if features == "inception":
        try:
            return InceptionFeatures(weights, device)
        except NoWeights as error:
            raise ValueError(f"{error}. {way_without_inception(data)}") from error
    if weights is not None:
        raise ValueError("--weights are Inception's: leave them out, or choose --features inception")
    if features == "classifier":
        features = need_classifier(data, f"{way_without_inception(data)}; or choose --features inception")
    return ClassifierFeatures(features, device)


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Features:
    """Features of batches of uint8 images."""
    parts = [extractor(pixels) for pixels in batches]
    return Features(torch.cat([f for f, _ in parts]), torch.cat([logits for _, logits in parts]))


# --- real images, cached ---------------------------------------------------------------------------------------------------

MAX_REFERENCE = 50_000


def spread(split: Split, n: int | None) -> Split:
    """``n`` images of the split, evenly spread; None takes at most 50,000. Raises ValueError where it has fewer."""
    n = min(len(split), MAX_REFERENCE) if n is None else n
    if not 10 <= n <= len(split):
        raise ValueError(f"--reference must lie in 10..{len(split)}, the number of real images to compare with, got {n}")
    return split if n == len(split) else Split(split.data, split.index[torch.arange(n) * len(split) // n])


def real_features(extractor: Extractor, split: Split, batch: int = 256, cache: str | Path | None = None) -> Features:
    """Features of a split's images, from the cache folder (see `pictures.cache_folder`) if these pixels were there before.

    The key is the images' own content and the extractor's id. Files are written beside and renamed; a damaged one is made again.
    """
    digest = hashlib.sha256(json.dumps([1, extractor.id, len(split), list(split.data.shape), batch]).encode())
    for pixels in split.batches(batch):
        digest.update(pixels.numpy().tobytes())
    file = cache_folder(cache) / "features" / f"{digest.hexdigest()[:32]}.npz"
    if file.is_file():
        with contextlib.suppress(OSError, EOFError, KeyError, ValueError, BadZipFile), np.load(file, allow_pickle=False) as held:
            return Features(torch.from_numpy(held["features"]), torch.from_numpy(held["logits"]), split.label)
    found = extract(extractor, split.batches(batch))
    try:
        write_whole(file, lambda out: np.savez(out, features=found.features.numpy(), logits=found.logits.numpy()))
    except OSError as error:
        if cache is not None:
            raise ValueError(f"cannot keep features in {file.parent} ({error}): name another folder with --cache") from error
        print(f"cmlab: features are not kept, {error}: CMLAB_CACHE names another folder", file=sys.stderr)
    return Features(found.features, found.logits, split.label)
