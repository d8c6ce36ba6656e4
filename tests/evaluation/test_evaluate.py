"""Evaluation: torch-fidelity's own numbers, the classifier that stands in for Inception, the cache, processes, wrong input."""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import cast
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import normal, said, seeded, tiny
from PIL import Image

from cmlab.commands.main import main
from cmlab.data.pictures import NoSplit, PixelData
from cmlab.evaluation.classifier import (
    LoadedClassifier,
    accuracy,
    classifier_names,
    fitting,
    load_classifier,
    resolve_classifier,
    save_classifier,
    splits,
    to_pixels,
)
from cmlab.evaluation.features import (
    ClassifierFeatures,
    InceptionFeatures,
    extract,
    inception_weights,
    real_features,
    spread,
)
from cmlab.evaluation.metrics import METRICS, Features, Reference
from cmlab.evaluation.report import Source, figures, quick_fd, report
from cmlab.formats import checkpoints
from cmlab.training import session


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own, and no torchrun around it."""
    monkeypatch.setenv("CMLAB_CACHE", str(tmp_path / "cache"))
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def random_images(n: int, seed: int, side: int = 8, contrast: float = 1.0) -> torch.Tensor:
    return (255 * contrast * torch.rand(n, 3, side, side, generator=seeded(seed))).to(torch.uint8)


# --- torch-fidelity --------------------------------------------------------------------------------------------------------


class Pixels(torch.utils.data.Dataset):
    def __init__(self, x: torch.Tensor):
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> torch.Tensor:
        return self.x[k]


@pytest.fixture(scope="module")
def network() -> str:
    """A feature extractor in torch-fidelity's registry that needs no weights."""
    fidelity = pytest.importorskip("torch_fidelity", reason="FID is an extra: pip install cmlab[metrics]")
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Small(FeatureExtractorBase):
        def __init__(self, name, features_list, feature_extractor_weights_path=None, **_):
            super().__init__(name, features_list)
            self.map = torch.nn.Linear(192, 12)
            with torch.no_grad():
                for p in self.map.parameters():
                    p.copy_(0.3 * torch.randn(p.shape, generator=seeded(5)))

        @staticmethod
        def get_provided_features_list():
            return "12", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "12"

        def forward(self, x):
            h = self.map(x.float().flatten(1) / 255)
            made = {"12": h.relu(), "logits": h[:, :5]}
            return tuple(made[name] for name in self.features_list)

    fidelity.register_feature_extractor("cmlab-small", Small)
    return "cmlab-small"


def test_figures_equal_a_direct_call_of_torch_fidelity(network):
    import torch_fidelity

    fake, real = random_images(140, 1, contrast=0.9), random_images(120, 2)
    direct = torch_fidelity.calculate_metrics(
        input1=Pixels(fake),
        input2=Pixels(real),
        feature_extractor=network,
        **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
        kid_subset_size=120,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    extractor = InceptionFeatures(network=network)
    a, b = (extract(extractor, x.split(50)) for x in (fake, real))
    rows = figures(extractor, list(extractor.asked), a, Reference(b), 5)
    keys = ("frechet_inception_distance", "kernel_inception_distance_mean", "inception_score_mean", "precision", "recall")
    assert [row.name for row in rows] == ["FID", "KID", "IS", "precision", "recall"]
    assert [row.value for row in rows] == pytest.approx([direct[key] for key in keys], rel=1e-5)
    assert all(0 < row.error < 1 for row in rows)


def test_without_a_network_the_message_names_file_and_place(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch_fidelity", reason="FID is an extra: pip install cmlab[metrics]")

    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert main(["evaluate", "digits-cd", "--n", "20", "--metrics", "fid"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "no network" in err and "--features digits needs no network: its figures" in err
    assert "https://github.com/toshas/torch-fidelity/releases" in err
    assert str(tmp_path / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth") in err
    assert not list((tmp_path / "hub").rglob("*.pth"))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_weights_that_are_missing_broken_or_run_code_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity", reason="FID is an extra: pip install cmlab[metrics]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no Inception weights at .*none\.pth: fetch https"):
        inception_weights(tmp_path / "none.pth")
    Path("text.pth").write_text("not weights")
    torch.save({"a": Evil()}, "evil.pth")
    Path("old.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("text.pth", "evil.pth", "old.pth"):
        with pytest.raises(ValueError, match="not a file of plain weights"):
            InceptionFeatures(name)
    assert not Path("executed").exists()
    torch.save({"other": torch.zeros(2)}, "other.pth")
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3.__init__", _refuses)
    with pytest.raises(ValueError, match="weights of another network"):
        InceptionFeatures("other.pth")


def _refuses(*_, **__):
    raise RuntimeError("Error(s) in loading state_dict")


# --- 8 bits ----------------------------------------------------------------------------------------------------------------


def test_both_roundings():
    x = torch.tensor([-1.5, -1.0, -0.998, 0.0, 0.999, 1.0, 2.0])
    assert to_pixels(x, "trunc").tolist() == [0, 0, 0, 127, 254, 255, 255]
    assert to_pixels(x, "round").tolist() == [0, 0, 0, 128, 255, 255, 255]
    dense = torch.linspace(-0.99, 0.99, 10_001, dtype=torch.float64)
    exact = (dense + 1) * 127.5  # real-valued grey level
    assert float((to_pixels(dense, "trunc") - exact).mean()) == pytest.approx(-0.5, abs=0.01)
    assert float((to_pixels(dense, "round") - exact).mean()) == pytest.approx(0, abs=0.01)


def test_images_of_files_come_back_to_the_bit():
    every = PixelData(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), None)
    assert torch.equal(to_pixels(every.x0), torch.from_numpy(every.pixels[np.arange(1)]))
    assert torch.equal(to_pixels(every.x0, "round"), to_pixels(every.x0))


# --- the classifier --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", classifier_names())
def test_shipped_classifiers_are_small_and_as_good_as_they_say(name):
    path = resolve_classifier(name)
    loaded = load_classifier(path)
    for data, share in loaded.about["accuracy"].items():
        if data.startswith("digits"):
            assert path.stat().st_size < 200_000 and share > 0.98
            assert accuracy(loaded.model, splits(data)[1]) == pytest.approx(share, abs=1e-3)


def test_no_scan_is_on_both_sides():
    for data in ("digits", "digits-color"):
        train, test, _ = splits(data)
        assert not set((train.index % 1797).tolist()) & set((test.index % 1797).tolist())
        assert len(train) + len(test) == len(train.data)


def test_damaged_or_foreign_classifiers_are_named(tmp_path):
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(ValueError, match="no classifier of cmlab"):
        load_classifier(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="no classifier of cmlab"):
        load_classifier(checkpoints.resolve("two-moons-cd"))
    with pytest.raises(ValueError, match="no classifier at"):
        ClassifierFeatures("nothing")


def test_fd_cls_orders_what_is_worse():
    train, test, _ = splits("digits")
    extractor = ClassifierFeatures("digits")
    reference, x, label = Reference(real_features(extractor, train)), test.pixels(slice(None)).float(), test.label
    assert label is not None
    noise = torch.randn(x.shape, generator=seeded())
    versions = {
        "real": x,
        "a little noise": x + 40 * noise,
        "noise": x + 80 * noise,
        "blurred": F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, 1),
        "five classes": x[label < 5],
        "one class": x[label == 3],
    }
    ones = {name: torch.ones(1, len(v), dtype=torch.float64) for name, v in versions.items()}
    found = {name: extract(extractor, [v.round().clamp(0, 255).to(torch.uint8)]) for name, v in versions.items()}
    fd = {name: float(METRICS["fd"](f, reference, ones[name])) for name, f in found.items()}
    assert 2 * fd["real"] < fd["a little noise"] < fd["noise"] and 4 * fd["real"] < min(fd["blurred"], fd["five classes"])
    assert fd["five classes"] < fd["one class"]


def test_some_classes_are_divided_as_the_whole_set_is():
    whole, some = splits("digits-color"), splits("digits-color:8,1")
    for part, kept in zip(whole[:2], some[:2], strict=True):
        label = part.label
        assert label is not None and kept.label is not None
        wanted = (label == 8) | (label == 1)
        assert torch.equal(kept.pixels(slice(None)), part.pixels(slice(None))[wanted])
        assert torch.equal(torch.tensor([8, 1])[kept.label], label[wanted])
    assert some[2] == whole[2]


def test_classes_are_matched_by_name_or_where_there_is_none_by_number():
    model = load_classifier(resolve_classifier("digits")).model
    named, nameless = LoadedClassifier(model, {"class_names": list("9876543210")}, "a"), LoadedClassifier(model, {}, "b")
    assert torch.equal(cast(torch.Tensor, named.numbers(("7", "0"))), torch.tensor([2, 9]))
    assert named.numbers(("7", "cat")) is None and nameless.numbers(("7", "0")) is None
    assert torch.equal(cast(torch.Tensor, nameless.numbers(tuple("abcdefghij"))), torch.arange(10))


@pytest.mark.parametrize("data", ["digits:7,0,3", "digits"])
def test_accuracy_is_of_the_class_that_was_meant(data):
    train, test, _ = splits(data)

    def draw(start: int, stop: int):
        return test.pixels(slice(start, stop)), test.label[start:stop]  # type: ignore[index]

    source = Source(len(test), 100, train.data.shape, draw, True, "real images")
    found = report(source, ClassifierFeatures("digits"), data, words=["accuracy"], replicates=2)
    assert found.rows[0].value == found.rows[0].floor > 0.98  # type: ignore[union-attr]


def test_accuracy_of_classes_that_the_classifier_does_not_know(tmp_path):
    path = save_classifier(
        tmp_path / "other.safetensors",
        load_classifier(resolve_classifier("digits")).model,
        {"class_names": list("abcdefghij")},
    )
    words = [row["name"] for row in evaluated(tmp_path, "digits-cd", "--n", "20", "--features", str(path))["figures"]]
    assert "FD-cls" in words and "class accuracy" not in words
    save_classifier(path, load_classifier(path).model, {"class_names": ["a"]})
    with pytest.raises(ValueError, match="no classifier of cmlab: it names other than its 10 classes"):
        load_classifier(path)


def test_a_model_of_some_classes_is_measured_on_them(tmp_path, capsys):
    model = tiny("unet", classes=3)
    path = checkpoints.save(tmp_path / "m.safetensors", model, {"data": "digits-color:3,8,9"})
    got = evaluated(tmp_path, str(path), "--n", "20", "--metrics", "fd,accuracy", "--features", "classifier")
    assert "of digits-color:3,8,9" in got["reference"] and got["figures"][1]["floor"] > 0.9
    assert quick_fd(model, "digits-color:3,8,9", n=20) == pytest.approx(got["figures"][0]["value"], rel=1e-4)
    capsys.readouterr()
    assert main(["evaluate", str(path), "--n", "20", "--data", "digits-color"]) == 1
    assert "makes samples of 3 classes, digits-color has 10" in capsys.readouterr().err


def test_quick_fd_leaves_no_trace(untouched_rng):
    model = checkpoints.load("digits-cd")[0].train()
    first = quick_fd(model, "digits", n=120)
    assert model.training and first == quick_fd(model, "digits", n=120)
    noise = tiny("unet").requires_grad_(False)
    with pytest.raises(ValueError, match="shape"):
        quick_fd(noise, "digits", n=20)
    assert first < 10 < quick_fd(tiny("unet", classes=10), "digits-color", n=120)
    with pytest.raises(ValueError, match="two-moons"):
        quick_fd(model, "two-moons")


def pictures(folder: Path, side: int) -> str:
    folder.mkdir()
    for k, pixels in enumerate(normal(24, side, side, 3, seed=side).mul(60).add(128).clamp(0, 255).byte().numpy()):
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return str(folder)


def test_own_pictures_are_measured_on_a_classifier_that_takes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own, odd = pictures(tmp_path / "own", 32), pictures(tmp_path / "odd", 12)
    assert fitting(own) == ["cifar10", "cifar10-fast"] and fitting("cifar10-examples")[0] == "cifar10" and fitting(odd) == []
    words = ["train", "digits-edm", "--steps", "2", "--batch", "4", "--network.channels", "8", "--fd-every", "2", "--data"]
    monkeypatch.setattr(session, "FD_SAMPLES", 10)
    assert main([*words, own, "--name", "mine"]) == 0
    out = capsys.readouterr().out
    assert f"FD-cls is on the classifier cifar10, which was not trained on {own}" in out and "FD-cls" in out.split("step 2:")[1]
    assert main([*words, odd, "--name", "odd"]) == 1
    assert "none that ships takes its pictures, only those of the shapes (1, 28, 28), (3, 8, 8)" in capsys.readouterr().err
    # From "classifier" to what is named there, and from there to figures.
    evaluate = ["evaluate", "mine", "--n", "10", "--steps", "1", "--sampler", "euler", "--features", "classifier"]
    assert main(evaluate) == 1
    assert "--features cifar10 needs no network: it was not trained on" in capsys.readouterr().err
    assert main([*evaluate[:-1], "cifar10"]) == 0 and "FD-cls" in capsys.readouterr().out


# --- the command -----------------------------------------------------------------------------------------------------------


def evaluated(tmp_path: Path, *args: str) -> dict:
    out = tmp_path / "figures.json"
    assert main(["evaluate", *args, "--json", str(out), "--overwrite"]) == 0
    return {k: v for k, v in json.loads(out.read_text()).items() if k != "seconds"}


def test_a_checkpoint_twice_from_the_cache_and_after_damage(tmp_path, cache, capsys, monkeypatch):
    args = ("digits-cd", "--n", "48", "--batch", "16", "--seed", "7")
    first = evaluated(tmp_path, *args)
    assert "FD-cls" in capsys.readouterr().out and "FID" not in str(first)
    names = [row["name"] for row in first["figures"]]
    assert names == ["FD-cls", "KD-cls", "IS-cls", "precision-cls", "recall-cls", "class accuracy"]
    assert all({"value", "error", "floor", "floor_error"} <= set(row) for row in first["figures"])
    files = sorted((cache / "features").iterdir())
    assert len(files) == 2 and all(f.suffix == ".npz" for f in files)
    files[0].write_bytes(files[0].read_bytes()[:100])
    assert evaluated(tmp_path, *args) == first
    calls = []
    real = ClassifierFeatures.__call__
    monkeypatch.setattr(ClassifierFeatures, "__call__", lambda self, x: (calls.append(len(x)), real(self, x))[1])
    assert evaluated(tmp_path, *args) == first and sum(calls) == 48  # the real images come from the cache


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_give_the_same_figures(tmp_path, monkeypatch):
    args = ("digits-cd", "--n", "28", "--batch", "8", "--teacher", "digits-edm")
    alone = evaluated(tmp_path, *args)
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "cmlab", "evaluate", *args, "--json", str(tmp_path / "second.json")]
    second = subprocess.Popen(command, env={**os.environ, **world, "RANK": "1"}, stdout=subprocess.PIPE, text=True)
    for name, value in {**world, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert evaluated(tmp_path, *args) == alone
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0 and out == "" and not (tmp_path / "second.json").exists()


def write_pictures(folder: Path, n: int, mode: str = "L") -> None:
    folder.mkdir()
    pixels = splits("digits")[1].pixels(slice(0, n))
    for k, picture in enumerate(pixels):
        Image.fromarray(picture[0].numpy()).convert(mode).save(folder / f"{k:03}.png")


def test_a_folder_of_the_held_out_images_is_as_far_as_the_floor(tmp_path):
    write_pictures(tmp_path / "pictures", 599)
    got = evaluated(tmp_path, str(tmp_path / "pictures"), "--data", "digits")
    assert got["n"] == got["floor_n"] == 599
    for row in got["figures"]:
        assert row["name"] != "class accuracy" and row["value"] == row["floor"] and row["error"] == row["floor_error"]


def test_samples_in_files_are_those_of_the_checkpoint(tmp_path):
    assert main(["sample", "digits-cd", "--n", "30", "--seed", "5", "--out", str(tmp_path / "x.npz")]) == 0
    direct = evaluated(tmp_path, "digits-cd", "--n", "30", "--seed", "5", "--rounding", "trunc")
    from_file = evaluated(tmp_path, str(tmp_path / "x.npz"), "--data", "digits", "--rounding", "trunc")
    assert from_file["figures"] == direct["figures"]
    held = np.load(tmp_path / "x.npz")
    pixels = to_pixels(torch.from_numpy(held["x"]), "trunc").permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "openai.npz", arr_0=pixels, arr_1=held["label"])
    assert evaluated(tmp_path, str(tmp_path / "openai.npz"), "--data", "digits")["figures"] == direct["figures"]
    rounded = evaluated(tmp_path, str(tmp_path / "x.npz"), "--data", "digits")
    assert rounded["figures"][0]["value"] != direct["figures"][0]["value"]


def test_options_change_what_is_measured(tmp_path):
    base = evaluated(tmp_path, "digits-edm", "--n", "20", "--metrics", "fd", "--steps", "3")
    assert [row["name"] for row in base["figures"]] == ["FD-cls"]
    changes = ["--steps 2", "--seed 3", "--sampler euler", "--sigmas 80 1 0", "--reference 500", "--metrics kd", "--replicates 5"]
    for words in changes:
        given = {"--steps": "3", "--metrics": "fd"} | ({} if "sigmas" not in words else {"--steps": ""})
        given |= {words.split()[0]: " ".join(words.split()[1:])}
        line = [w for name, value in given.items() if value for w in (name, *value.split())]
        other = evaluated(tmp_path, "digits-edm", "--n", "20", *line)
        assert other["figures"] != base["figures"], words


def test_points_get_sliced_wasserstein_distances(tmp_path):
    got = evaluated(tmp_path, "two-moons-cd", "--n", "300", "--teacher", "two-moons-edm")
    rows = {row["name"]: row for row in got["figures"]}
    assert {"1 step", "2 steps", "paired rms to the teacher"} <= set(rows)
    assert rows["1 step"]["error"] > 0 and rows["1 step"]["floor"] > 0 and "floor" not in rows["paired rms to the teacher"]


def test_sets_without_a_test_split_are_halved():
    data = PixelData(random_images(50, 3).numpy(), None)
    assert len(spread(splits("digits")[0], 100)) == 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmlab.evaluation.classifier.load_images", _whole(data))
        train, test, how = splits("somewhere")
    assert len(train) == len(test) == 25 and not set(train.index.tolist()) & set(test.index.tolist()) and "random half" in how


def _whole(data):
    def load(name, **options):
        if options:
            raise NoSplit(f"{name} is not split")
        return data

    return load


def test_equal_features_are_shared_by_content_not_by_name(cache):
    extractor = ClassifierFeatures("digits")
    train = splits("digits")[0]
    a, b = real_features(extractor, spread(train, 20)), real_features(extractor, spread(train, 21))
    assert isinstance(a, Features) and len(a) == 20 and len(b) == 21 and len(list((cache / "features").iterdir())) == 2
    real_features(extractor, spread(train, 20))
    assert len(list((cache / "features").iterdir())) == 2


WRONG = {
    "evaluate nothing-like-it": "choose one of",
    "evaluate {t}/empty --data digits": "holds no pictures",
    "evaluate {t}/few --data digits": "holds 3 pictures",
    "evaluate {t}/some": "pass --data",
    "evaluate {t}/some --data digits --n 13": "holds 12 pictures",
    "evaluate {t}/some --data digits-colour": "did you mean 'digits-color'",
    "evaluate {t}/wide --data digits": "have the shape (1, 8, 9), the data (1, 8, 8)",
    "evaluate {t}/some --data digits --steps 3": "--steps belongs to checkpoints",
    "evaluate {t}/some --data digits --keep": "--keep belongs to checkpoints",
    "evaluate {t}/some --data digits --metrics accuracy": "accuracy needs the class",
    "evaluate {t}/bad.npz --data digits": "no npz of plain arrays",
    "evaluate {t}/points.npz --data digits": "should hold x",
    "evaluate {t}/cut.npz --data digits": "no npz of plain arrays",
    "evaluate {t}/words.npz --data digits": "should hold one class number per image",
    "evaluate {t}/class.npz --data digits": "has a class 12, the data have 0..9",
    "evaluate digits-cd --data cifar10": "cifar-10-python.tar.gz",
    "evaluate digits-cd --data two-moons": "has samples of shape",
    "evaluate digits-cd --metrics fd,fad": "there are fd,kd,is,pr,accuracy",
    "evaluate digits-cd --metrics fid,accuracy": "there are fid,kid,is,pr",
    "evaluate digits-cd --features nothing": "no classifier at",
    "evaluate digits-cd --weights x.pth --features classifier": "--weights are Inception's",
    "evaluate digits-cd --weights {t}/none.pth": "no Inception weights at",
    "evaluate digits-cd --n 9": "--n must be at least 10",
    "evaluate digits-cd --batch 0": "--batch at least 1",
    "evaluate digits-cd --n 20 --reference 1199": "must lie in 10..1198",
    "evaluate digits-cd --n 20 --replicates 1": "--replicates must be at least 2",
    "evaluate digits-cd --sampler heun": "choose --sampler multistep or onestep",
    "evaluate digits-cd --teacher digits-ict": "must be a diffusion model",
    "evaluate two-moons-cd --teacher 8gaussians-edm": "were trained on different data, 8gaussians and two-moons",
    "evaluate digits-cd --json {t}/kept.json": "--overwrite",
    "evaluate digits-cd --n 20 --cache /dev/null/x": "--cache",
    "evaluate two-moons-cd --metrics fid": "--metrics is for pictures",
    "evaluate two-moons-cd --cache x": "--cache is for pictures",
    "evaluate digits-cd --stpes 3": "Perhaps you meant: --steps",
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "empty").mkdir()
    write_pictures(folder / "some", 12)
    write_pictures(folder / "few", 3)
    (folder / "wide").mkdir()
    for k in range(12):
        Image.new("L", (9, 8)).save(folder / "wide" / f"{k}.png")
    (folder / "bad.npz").write_text("not an archive")
    np.savez(folder / "points.npz", x=np.zeros((12, 2), np.float32))
    np.savez(folder / "words.npz", x=np.zeros((12, 1, 8, 8), np.float32), label=np.array(["a"] * 12))
    (folder / "cut.npz").write_bytes((folder / "points.npz").read_bytes()[:200])
    np.savez(folder / "class.npz", x=np.zeros((12, 1, 8, 8), np.float32), label=np.full(12, 12))
    (folder / "kept.json").write_text("precious")
    return folder


@pytest.mark.parametrize("args", WRONG)
def test_wrong_input_is_one_line_that_names_the_way_out(args, wrong, capsys, monkeypatch, tmp_path):
    if "Inception" in WRONG[args] or "fid" in args:
        pytest.importorskip("torch_fidelity", reason="FID is an extra: pip install cmlab[metrics]")
    monkeypatch.setenv("CMLAB_DATA", str(tmp_path))
    code, err = main(args.format(t=wrong).split()), capsys.readouterr().err
    if code == 2:  # tyro says it, in a box
        assert WRONG[args] in said(err)
    else:
        assert code == 1 and err.startswith("cmlab: error: ") and err.count("\n") == 1 and WRONG[args] in err, err
    assert (wrong / "kept.json").read_text() == "precious"


def test_pictures_of_any_size_are_measured_at_the_side_behind_their_name(tmp_path, capsys):
    for k in range(12):
        Image.new("RGB", (12, 10 + k), (20 * k, 100, 50)).save(tmp_path / f"{k}.png")
    words = ["--data", "digits-color", "--metrics", "fd", "--features", "digits", "--cache", str(tmp_path / "cache")]
    assert main(["evaluate", str(tmp_path), *words]) == 1
    assert "PATH@32" in capsys.readouterr().err
    assert main(["evaluate", f"{tmp_path}@8", *words]) == 0
    assert "12 real held-out images" in capsys.readouterr().out
