"""Checkpoints of other programs: every bit arrives, and comes back, or there is one line that says why not."""

import io
import json
import pickle
import sys
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from conftest import normal, randomise, tiny
from golden.base import FOLDER, open_golden
from safetensors.torch import load_file, save_file
from torch import nn

from cmlab.commands.main import main
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, Precond, Preconditioning
from cmlab.formats import checkpoints, unpickle
from cmlab.formats.checkpoints import CheckpointError, expected_state, load
from cmlab.formats.convert import _PARTS, Facts, _openai_network, convert, read, write
from cmlab.formats.diffusers_layout import diffusers_settings, obstacles, read_diffusers_settings
from cmlab.formats.layouts import from_openai, openai_obstacles, to_openai
from cmlab.methods.scalings import IDDPMPrecond, VEPrecond, VPPrecond
from cmlab.networks import SongUNetConfig, UNetConfig, build_network
from cmlab.networks.adm import IMAGENET64, LSUN256

OPENAI = UNetConfig(
    32, (1, 2), blocks=1, attention=(8,), head_channels=16, group=1, max_groups=32, time_scale=1000.0, resample="block"
)
SHAPE = (3, 16, 16)
CM = Facts(kind="consistency", image_size=16, head_channels=16)


def model(
    config: UNetConfig | SongUNetConfig = OPENAI,
    shape: tuple[int, ...] = SHAPE,
    classes: int = 0,
    precond: Preconditioning = CONSISTENCY,
    drops_labels: bool = False,
) -> Denoiser:
    """Random weights, each a different number, so that no two can be taken for one another."""
    net = randomise(build_network(config, shape, classes))
    return Denoiser(net, precond, shape, classes, drops_labels).eval()


def same(a: Denoiser, b: Denoiser) -> bool:
    """Equal bits under equal names, and the same meaning."""
    ours, theirs = a.net.state_dict(), b.net.state_dict()
    equal = ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) and v.dtype == theirs[k].dtype for k, v in ours.items())
    return equal and (a.precond, a.shape, a.classes, a.drops_labels) == (b.precond, b.shape, b.classes, b.drops_labels)


def error(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- OpenAI --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pt(tmp_path) -> Path:
    path = tmp_path / "cd.pt"
    torch.save(to_openai(model().net.state_dict()), path)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("facts", [CM, replace(CM, kind="edm"), replace(CM, sigma_min=0.01)])
def test_an_openai_file_becomes_the_same_model(tmp_path, zipped, facts):
    precond = {"edm": EDM}.get(facts.kind) or Precond(sigma_min=facts.sigma_min or 0.002)
    want = model(classes=5, precond=precond)
    torch.save(OrderedDict(to_openai(want.net.state_dict())), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors", facts)
    got, meta = checkpoints.load(tmp_path / "a.safetensors")
    assert same(got, want)
    assert meta["config"]["time_scale"] == 1000
    assert "a.pt" in meta["about"]["converted from"]
    x, label = normal(2, *SHAPE, dtype=torch.float32), torch.tensor([0, 4])
    assert torch.equal(got(x, torch.tensor(1.5), label), want(x, torch.tensor(1.5), label))


def test_half_precision_files_are_read_without_loss(tmp_path):
    want = model().half().float()
    torch.save({k: v.half() for k, v in to_openai(want.net.state_dict()).items()}, tmp_path / "a.pt")
    assert same(read(tmp_path / "a.pt", CM)[0], want)


def test_what_the_weights_do_not_say_must_be_said(pt):
    assert "--kind" in error(lambda: read(pt))
    assert "--image-size" in error(lambda: read(pt, Facts(kind="edm")))
    assert "--image-size" in error(lambda: read(pt, Facts(kind="edm", head_channels=16)))
    assert "--heads" in error(lambda: read(pt, Facts(kind="edm", image_size=16)))
    assert "--heads" in error(lambda: read(pt, replace(CM, heads=2)))
    assert "--heads" in error(lambda: read(pt, replace(CM, heads_up=2)))
    assert "--sigma-min" in error(lambda: read(pt, replace(CM, kind="edm", sigma_min=0.01)))
    assert "--sigma-min" in error(lambda: read(pt, replace(CM, sigma_min=float("nan"))))
    assert "at least 1" in error(lambda: read(pt, replace(CM, image_size=0)))
    assert "--head-channels 48" in error(lambda: read(pt, replace(CM, head_channels=48)))


def test_heads_change_the_model_and_not_the_weights(pt):
    few, many = (read(pt, Facts(kind="edm", image_size=16, heads=n))[0] for n in (1, 4))
    assert all(torch.equal(v, many.net.state_dict()[k]) for k, v in few.net.state_dict().items())
    assert (few.config.heads, many.config.heads) == (1, 4)
    assert read(pt, Facts(kind="edm", image_size=16, heads=2, heads_up=4))[0].config.heads_up == 4


@pytest.mark.parametrize(("config", "size", "classes"), [(IMAGENET64, 64, 1000), (LSUN256, 256, 0)])
def test_the_published_networks_are_recognised(config, size, classes):
    shapes = expected_state(config, (3, size, size), classes)
    state = to_openai({k: torch.empty(v, device="meta") for k, v in shapes.items()})
    assert _openai_network(state, Facts()) == (config, (3, size, size), classes)


def test_openai_files_come_back_as_they_were(tmp_path, pt):
    convert(pt, tmp_path / "a.safetensors", CM)
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    before, after = (torch.load(p, weights_only=True) for p in (pt, tmp_path / "b.pt"))
    assert list(before) == list(after)
    assert all(torch.equal(v, after[k]) for k, v in before.items())


# --- diffusers -----------------------------------------------------------------------------------------------------------

EXPRESSIBLE = {
    "imagenet64-like": OPENAI,
    "lsun-like": replace(OPENAI, mult=(1, 1, 2), blocks=2, scale_shift=False, attention=(8, 4)),
    "convolutions": replace(OPENAI, resample="conv"),
    "heads": replace(OPENAI, mult=(1, 1), head_channels=0, heads=4),
    "no attention but in the middle": replace(OPENAI, attention=()),
    "attention at full size": replace(OPENAI, attention=(16,)),
    "one level": replace(OPENAI, mult=(1,), attention=(16,)),
    "narrower below": replace(OPENAI, channels=64, mult=(1, 0.5)),
    "groups of NVlabs": replace(OPENAI, channels=64, mult=(1,), group=2),
}


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_openai_to_cmlab_to_diffusers_and_back_keeps_every_bit(tmp_path, name):
    config, classes = EXPRESSIBLE[name], 0 if name == "lsun-like" else 3
    want = model(config, classes=classes)
    torch.save(to_openai(want.net.state_dict()), tmp_path / "a.pt")
    heads = {"heads": config.heads} if not config.head_channels else {"head_channels": config.head_channels}
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors", Facts("consistency", image_size=16, **heads))
    convert(tmp_path / "a.safetensors", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.safetensors")
    got = checkpoints.load(tmp_path / "b.safetensors")[0]
    assert same(got, want)
    convert(tmp_path / "b.safetensors", tmp_path / "b.pt")
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    x, label = normal(2, *SHAPE, dtype=torch.float32), torch.tensor([0, 2]) if classes else None
    assert torch.equal(got(x, torch.tensor(1.5), label), want(x, torch.tensor(1.5), label))


@pytest.mark.parametrize("config", [*EXPRESSIBLE.values(), replace(OPENAI, emb=48, dropout=0.1)])
def test_the_settings_come_back(config):
    settings = json.loads(json.dumps(diffusers_settings(config, SHAPE, 7)))
    again, shape, classes = read_diffusers_settings(settings)
    assert (shape, classes) == (SHAPE, 7)
    assert diffusers_settings(again, SHAPE, 7) == settings
    assert expected_state(again, SHAPE, 7) == expected_state(config, SHAPE, 7)


def test_the_settings_are_the_published_ones():
    s = diffusers_settings(IMAGENET64, (3, 64, 64), 1000)
    assert (s["block_out_channels"], s["layers_per_block"], s["attention_head_dim"]) == ([192, 384, 576, 768], 3, 64)
    assert s["down_block_types"] == ["ResnetDownsampleBlock2D", *3 * ["AttnDownBlock2D"]]
    assert s["up_block_types"] == [*3 * ["AttnUpBlock2D"], "ResnetUpsampleBlock2D"]
    assert (s["resnet_time_scale_shift"], s["downsample_type"], s["num_class_embeds"]) == ("scale_shift", "resnet", 1000)
    s = diffusers_settings(LSUN256, (3, 256, 256), 0)
    assert s["block_out_channels"] == [256, 256, 512, 512, 1024, 1024]
    assert (s["resnet_time_scale_shift"], s["sample_size"], s["num_class_embeds"]) == ("default", 256, None)
    for config, size, classes in ((IMAGENET64, 64, 1000), (LSUN256, 256, 0)):
        assert read_diffusers_settings(diffusers_settings(config, (3, size, size), classes)) == (config, (3, size, size), classes)


NO_WORDS = {
    "time_scale": replace(OPENAI, time_scale=16.0),
    "mult begins": replace(OPENAI, channels=64, mult=(0.5, 1)),
    "groups": replace(OPENAI, group=4, max_groups=0),
    "attention heads": replace(OPENAI, head_channels=0, heads=2, attention=(16,)),
    "resample pool": replace(OPENAI, resample="pool"),
    "variance": replace(OPENAI, variance=True),
    "augmentation": replace(OPENAI, augment=9),
    "NVlabs": replace(OPENAI, float32_freqs=True),
    "patches": replace(OPENAI, patch=2),
}


@pytest.mark.parametrize("words", NO_WORDS)
def test_what_diffusers_cannot_express_is_said(tmp_path, words):
    text = error(lambda: write(tmp_path / "folder", model(NO_WORDS[words])))
    assert words in text and ".safetensors" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("it", "words"),
    [
        (lambda: model(precond=EDM), "diffusion model"),
        (lambda: model(precond=VPPrecond()), "preconditioning"),
        (lambda: model(classes=3, drops_labels=True), "label"),
        (lambda: tiny("mlp"), "another network"),
    ],
)
def test_models_without_a_pipeline_are_said(tmp_path, it, words):
    assert words in error(lambda: write(tmp_path / "folder", it()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["time_scale", "32 groups", "NVlabs", "four times", "augmentation", "patches"])
def test_what_openai_cannot_express_is_said(tmp_path, words):
    changes = {
        "32 groups": {"max_groups": 16},
        "four times": {"emb": 48},
        "NVlabs": {"float32_freqs": True},
        "patches": {"patch": 2},
    }
    changes |= {"time_scale": {"time_scale": 1.0}, "augmentation": {"augment": 9}}
    assert words in error(lambda: write(tmp_path / "a.pt", model(replace(OPENAI, **changes[words]))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10-small-cd", "digits-edm", "digits-color-ict"])
@pytest.mark.parametrize("suffix", ["", ".pt"])
def test_all_reasons_are_given_and_a_network_as_they_advise_is_written(tmp_path, name, suffix):
    own, _ = load(name)
    text = error(lambda: write(tmp_path / f"a{suffix}", own))
    found = [*(openai_obstacles(own.config) if suffix else obstacles(own.config, own.shape))]
    assert len(found) > 1 and all(one.reason in text for one in found)
    assert f"--network.time-scale 1000 {'--network.patch 1 ' * ('cifar' in name)}" in text
    if not suffix:
        assert ("it is a diffusion model" in text) == ("edm" in name)
    config = own.config
    for one in found:
        config = replace(config, **one.choose)
    fitting = Denoiser(build_network(config, own.shape, own.classes), CONSISTENCY, own.shape, own.classes)
    written = write(tmp_path / f"b{suffix}", fitting)
    facts = Facts("consistency", image_size=own.shape[1], heads=1) if suffix else None
    again = read(written, facts)[0].net.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in fitting.net.state_dict().items())


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "folder", model(classes=3))


def change(folder: Path, file: str, **changes) -> Path:
    values = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(values))
    return folder


def test_a_folder_holds_what_diffusers_looks_for(folder):
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    parts = {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"}
    assert names == {"model_index.json", *parts}
    index = json.loads((folder / "model_index.json").read_text())
    assert index == {"_class_name": "ConsistencyModelPipeline", **_PARTS}
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights["mid_block.attentions.0.to_q.weight"].shape == (64, 64)
    assert weights["class_embedding.weight"].shape == (3, 128)


def test_a_folder_with_a_bin_file_is_the_same(folder):
    want, file = read(folder)[0], folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), folder / "unet" / "diffusion_pytorch_model.bin")
    file.unlink()
    assert same(read(folder)[0], want)


def test_the_scheduler_is_kept(folder, tmp_path):
    change(folder, "scheduler/scheduler_config.json", num_train_timesteps=201, sigma_min=0.01, sigma_data=0.6)
    got, about = read(folder)
    assert got.precond == Precond(0.6, 0.01)
    write(tmp_path / "again", got, about)
    files = [json.loads((f / "scheduler" / "scheduler_config.json").read_text()) for f in (folder, tmp_path / "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_eps": 1e-6}, "norm_eps"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"something_new": 1}, "something_new"),
        ({"out_channels": 6}, "output"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "blocks"),
        ({"down_block_types": ["AttnDownBlock2D", "AttnDownBlock2D"]}, "attention"),
        ({"downsample_type": "conv", "down_block_types": 2 * ["AttnDownBlock2D"], "up_block_types": 2 * ["AttnUpBlock2D"]}, "ways"),
        ({"attn_norm_num_groups": None}, "attn_norm_num_groups"),
        ({"attention_head_dim": 48}, "heads of 48"),
        ({"block_out_channels": [32]}, "one entry per level"),
        ({"layers_per_block": 2}, "missing"),
        ({"num_class_embeds": None}, "class_embedding"),
        ({"num_class_embeds": 4}, "fit"),
    ],
)
def test_other_settings_of_diffusers_are_errors(folder, changes, words):
    text = error(lambda: read(change(folder, "unet/config.json", **changes)))
    assert words in text and str(folder) in text


def test_diffusers_gives_the_same_numbers(folder):
    """The same network in diffusers itself, where it is installed."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: its layout is tested by the settings alone")
    pipeline = diffusers.ConsistencyModelPipeline.from_pretrained(folder, local_files_only=True)
    ours, noise, label = read(folder)[0], normal(2, *SHAPE, dtype=torch.float32), torch.tensor([0, 2])
    with torch.no_grad():
        theirs = pipeline(2, class_labels=label, latents=noise, num_inference_steps=1, output_type="pt").images
        mine = ours(80 * noise, torch.tensor(80.0), label).clamp(-1, 1) / 2 + 0.5
    assert (theirs - mine).abs().max() < 2e-4


# --- NVlabs --------------------------------------------------------------------------------------------------------------

SONG = SongUNetConfig(16, (1, 2), blocks=1, attention=(8,), augment=9)
SONG_SETTINGS = {
    "img_resolution": 16,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 5,
    "augment_dim": 9,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "label_dropout": 0.1,
}


class Part(nn.Module):
    """Written as NVlabs' persistent classes write themselves: source text, name of the class, and the state as a dictionary."""

    def __init__(self, name: str, settings: dict):
        super().__init__()
        self.name, self._init_args, self._init_kwargs = name, (), settings

    def __reduce__(self):
        source = "raise SystemExit('the source inside a checkpoint was executed')"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.name, "state": self.__dict__}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def part(state: dict, name: str, settings: dict | None = None) -> Part:
    """A tree of parts that holds ``state``; containers are torch's own, as in the originals."""
    me = Part(name, settings or {})
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if not rest:
            me.register_parameter(first, nn.Parameter(value, requires_grad=False))
    for first in dict.fromkeys(k.split(".")[0] for k in state if "." in k):
        below = {k[len(first) + 1 :]: v for k, v in state.items() if k.startswith(first + ".")}
        if first in ("enc", "dec"):
            # Names with dots cannot be attributes, so a block's own parameters are below it.
            blocks = dict.fromkeys(k.split(".")[0] for k in below)
            prefix = {b: {k[len(b) + 1 :]: v for k, v in below.items() if k.startswith(b + ".")} for b in blocks}
            me.add_module(first, nn.ModuleDict({b: part(s, "UNetBlock") for b, s in prefix.items()}))
        else:
            me.add_module(first, part(below, "Linear"))
    return me


def snapshot(path: Path, state: dict | Part, network: str, settings: dict, precond="EDMPrecond", protocol=4, **scalings) -> Path:
    """A file as NVlabs' training loop writes it. Its modules exist while it is written, and not when it is read."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("called while reading")

    class EasyDict(dict):
        pass

    modules = {name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}
    for module, thing in (("torch_utils.persistence", _reconstruct_persistent_obj), ("dnnlib.util", EasyDict)):
        thing.__module__, thing.__qualname__ = module, thing.__name__
        setattr(modules[module], thing.__name__, thing)
    outer = Part(precond, {"img_resolution": 16, "model_type": network, **settings, **scalings})
    outer.add_module("model", state if isinstance(state, Part) else part(state, network, settings))
    sys.modules.update(modules)
    try:
        data = {"ema": outer, "loss_fn": Part("EDMLoss", {}), "augment_pipe": None, "dataset_kwargs": EasyDict(path="x.zip")}
        path.write_bytes(pickle.dumps(data, protocol))
    finally:
        for name in modules:
            del sys.modules[name]
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_nvlabs_snapshot_becomes_the_same_model(tmp_path, protocol):
    want = model(SONG, classes=5, precond=EDM, drops_labels=True)
    path = snapshot(tmp_path / "edm.pkl", want.net.state_dict(), "SongUNet", SONG_SETTINGS, protocol=protocol)
    convert(path, tmp_path / "a.safetensors")
    got, meta = checkpoints.load(tmp_path / "a.safetensors")
    assert same(got, want)
    assert "EDMPrecond, SongUNet" in meta["about"]["converted from"]
    assert got.config == replace(SONG, dropout=got.config.dropout)


@pytest.mark.parametrize(
    ("name", "scalings", "want"),
    [
        ("EDMPrecond", {"sigma_data": 0.6, "sigma_min": 0.002}, Precond(0.6)),
        ("EDMPrecond", {"sigma_max": float("inf")}, EDM),
        ("ECMPrecond", {}, Precond(sigma_min=0.003)),
        ("ECMPrecond", {"sigma_min": 0.002}, Precond(sigma_min=0.002)),
        ("VPPrecond", {"beta_d": 18.0, "beta_min": 0.2, "M": 500, "epsilon_t": 1e-4}, VPPrecond(18.0, 0.2, 500, 1e-4)),
        ("VPPrecond", {}, VPPrecond()),
        ("VEPrecond", {"sigma_min": 0.03, "sigma_max": 90.0}, VEPrecond(0.03, 90.0)),
        ("iDDPMPrecond", {"C_1": 0.002, "C_2": 0.01, "M": 400}, IDDPMPrecond(0.002, 0.01, 400)),
    ],
)
def test_every_preconditioning_of_nvlabs_is_read(tmp_path, name, scalings, want):
    path = snapshot(tmp_path / "a.pkl", model(SONG, classes=5).net.state_dict(), "SongUNet", SONG_SETTINGS, name, **scalings)
    assert read(path)[0].precond == want


def test_a_training_state_of_nvlabs_is_read(tmp_path):
    want = model(SONG, classes=5, precond=EDM, drops_labels=True)
    snapshot(tmp_path / "a.pkl", want.net.state_dict(), "SongUNet", SONG_SETTINGS)
    content = (tmp_path / "a.pkl").read_bytes().replace(b"\x8c\x03ema", b"\x8c\x03net")
    (tmp_path / "b.pkl").write_bytes(content)
    assert same(read(tmp_path / "b.pkl")[0], want)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "StyleUNet"}, "StyleUNet"),
        ({"precond": "FlowPrecond"}, "FlowPrecond"),
        ({"settings": SONG_SETTINGS | {"num_blocks": 2}}, "lack"),
        ({"settings": SONG_SETTINGS | {"gain": 2}}, "gain"),
        ({"settings": SONG_SETTINGS | {"label_dim": float("nan")}}, "settings"),
        ({"settings": SONG_SETTINGS | {"label_dim": SimpleNamespace()}}, "types"),
    ],
)
def test_other_networks_of_nvlabs_are_errors(tmp_path, changes, words):
    values = {"network": "SongUNet", "settings": SONG_SETTINGS, **changes}
    path = snapshot(tmp_path / "a.pkl", model(SONG, classes=5).net.state_dict(), **values)
    assert words in error(lambda: read(path))


# --- the reference files -------------------------------------------------------------------------------------------------


def openai_case(path: Path):
    """The .pt file of a reference network, its facts, and its arrays."""
    net = open_golden(path).case("net")
    c = net.scalars["config"]
    if c.get("num_head_channels", -1) > 0:
        heads = {"head_channels": c["num_head_channels"]}
    else:
        heads = {"heads": c["num_heads"]}
        heads |= {"heads_up": c["num_heads_upsample"]} if c.get("num_heads_upsample", -1) > 0 else {}
    return net, Facts("consistency", image_size=c["image_size"], **heads)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("b_unet_*.npz")), ids=lambda p: p.stem)
def test_reference_networks_keep_every_bit_and_their_answer(tmp_path, path):
    """Those with heads of different sizes or a variance cannot go through diffusers: its U-Net has one size, and no variance."""
    net, facts = openai_case(path)
    torch.save(net.params(torch.float32), tmp_path / "a.pt")
    first = convert(tmp_path / "a.pt", tmp_path / "a.safetensors", facts)
    try:
        convert(tmp_path / "a.safetensors", tmp_path / "folder")
        last = convert(tmp_path / "folder", tmp_path / "b.safetensors")
        assert same(first, last)
    except CheckpointError as reason:
        assert "heads" in str(reason) or "variance" in str(reason)
        last = first
    want, got = from_openai(net.params(torch.float32)), last.net.state_dict()
    assert want.keys() == got.keys() and all(torch.equal(v, got[k]) for k, v in want.items())
    label = net.input("y") if last.classes else None
    with torch.no_grad():
        answer = last.net(net.input("x"), net.input("t") / 1000, label)
    assert (answer - net.tensor("out", "y_f32")).abs().max() < 1e-3


@pytest.mark.parametrize("path", sorted(FOLDER.glob("g_edm_net_*.npz")), ids=lambda p: p.stem)
def test_reference_networks_of_nvlabs_keep_their_answer(tmp_path, path):
    net = open_golden(path).case("net")
    network = net.fn.split(".")[0]
    got, _ = read(snapshot(tmp_path / "a.pkl", net.params(torch.float32), network, net.scalars["config"]))
    names = [n for n in net.names("in") if n != "x"]
    label = net.input("class_labels") if "class_labels" in names else None
    label = None if label is None else torch.where(label.sum(1) > 0, label.argmax(1), -1)
    augment = net.input("augment_labels") if "augment_labels" in names else None
    with torch.no_grad():
        answer = got.net(net.input("x"), net.input("noise_labels"), label, augment)
    assert (answer - net.tensor("out", "y_f32")).abs().max() < 1e-3


# --- targets and the command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "folder"])
def test_nothing_is_overwritten_unasked(tmp_path, name):
    write(tmp_path / name, model())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert "--overwrite" in error(lambda: write(tmp_path / name, model(classes=2)))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    write(tmp_path / name, model(classes=2), overwrite=True)
    assert read(tmp_path / name, CM if name == "a.pt" else None)[0].classes == 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_of_other_things_is_not_a_target(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    assert "no diffusers folder" in error(lambda: write(tmp_path / "letters", model(), overwrite=True))


def test_the_source_is_not_a_target(tmp_path):
    path = write(tmp_path / "a.safetensors", model())
    assert "the source itself" in error(lambda: convert(path, path, overwrite=True))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "folder"])
def test_half_precision_halves_the_file(tmp_path, name):
    def size(path: Path) -> int:
        return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*.safetensors")))

    whole, half = write(tmp_path / name, model()), write(tmp_path / f"half-{name}", model(), half=True)
    own = name == "a.safetensors"  # whose vectors keep their precision
    assert size(half) < (0.75 if own else 0.6) * size(whole)
    got = read(half, CM if name == "a.pt" else None)[0].net.state_dict()
    for key, value in model().net.state_dict().items():
        assert torch.equal(value if own and value.ndim < 2 else value.half().float(), got[key]), key


def test_half_precision_refuses_what_it_cannot_hold(tmp_path):
    it = model()
    with torch.no_grad():
        next(it.parameters())[0] = 1e6
    assert "too large for 16 bits" in error(lambda: write(tmp_path / "a.safetensors", it, half=True))


def test_the_command_line_converts(tmp_path, pt, capsys):
    target = tmp_path / "new" / "a.safetensors"
    options = ["--kind", "consistency", "--image-size", "16", "--head-channels", "16", "--sigma-min", "0.004"]
    assert main(["convert", str(pt), str(target), *options]) == 0
    assert str(target) in capsys.readouterr().out
    assert checkpoints.load(target)[0].precond == Precond(sigma_min=0.004)
    assert main(["convert", str(pt), str(target), *options]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", str(target), str(tmp_path / "folder"), "--dtype", "half"]) == 0
    assert main(["convert", str(target), str(tmp_path / "b.pt"), "--kind", "edm"]) == 1
    assert "leave out --kind" in capsys.readouterr().err
    assert main(["convert", str(pt), str(tmp_path / "b.onnx"), *options]) == 1
    assert "end it in" in capsys.readouterr().err
    assert main(["info", str(target)]) == 0
    assert "consistency" in capsys.readouterr().out


def test_a_bundled_model_is_a_source(tmp_path):
    name = checkpoints.pretrained_names()[0]
    assert same(convert(name, tmp_path / "a.safetensors"), checkpoints.load(name)[0])


def test_help_names_the_sources(capsys):
    assert main(["convert", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(word in text for word in ("OpenAI", "NVlabs", "diffusers", "--head-channels", "--overwrite"))
    assert "http" not in text


def test_reading_leaves_torch_and_pickle_alone(tmp_path, pt, monkeypatch):
    """Neither torch's way of reading pickles nor Python's fast one takes part: neither can be made safe."""
    monkeypatch.setattr(pickle, "Unpickler", None)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(torch, "load", None)
    path = snapshot(tmp_path / "a.pkl", model(SONG, classes=5).net.state_dict(), "SongUNet", SONG_SETTINGS)
    assert read(path)[0].classes == 5
    assert read(pt, CM)[0].shape == SHAPE


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_kind_and_layout_are_read(tmp_path, zipped):
    base = torch.arange(24.0).reshape(4, 6)
    kinds = {str(t): torch.tensor([0, 1, 2]).to(t) for t in unpickle.DTYPES.values()}
    state = {"whole": base, "view": base[1:3, ::2], "turned": base.t(), "number": torch.tensor(3.5), "none": torch.empty(0, 3)}
    state |= kinds | {"parameter": nn.Parameter(base)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    got = unpickle.tensors(unpickle.read_torch(tmp_path / "a.pt"))
    assert got.keys() == state.keys()
    assert all(torch.equal(v, got[k]) and v.dtype == got[k].dtype for k, v in state.items())
    buffer = io.BytesIO()
    pickle.dump(state, buffer)
    (tmp_path / "b.pkl").write_bytes(buffer.getvalue())
    got = unpickle.tensors(unpickle.read_pickle(tmp_path / "b.pkl"))
    assert all(torch.equal(v, got[k]) for k, v in state.items())


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert "another program" in error(lambda: read(tmp_path / "a.safetensors"))


def test_the_header_describes_the_network(tmp_path):
    """The header of a converted file rebuilds the network it was made from."""
    write(tmp_path / "a.safetensors", model())
    assert checkpoints.read_meta(tmp_path / "a.safetensors")["config"] == json.loads(json.dumps(asdict(OPENAI)))
