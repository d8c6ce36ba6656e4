"""Distances per sample: values, limits, gradients at zero; LPIPS against piq's own class on random weights."""

import urllib.error

import pytest
import torch
from conftest import normal, seeded, tiny
from hypothesis import given
from hypothesis import strategies as st

from cmlab.distances import Distance
from cmlab.methods import lpips as vgg
from cmlab.methods.continuous import ContinuousLoss, hessian_product

A = torch.tensor([[3.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
B = torch.tensor([[0.0, -4.0], [1.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(Distance("l1"), 7.0), (Distance("l2"), 25.0), (Distance("huber", 0.0), 5.0), (Distance("huber", 12.0), 1.0)],
)
def test_values_per_sample(distance, expected):
    assert distance(A, B).tolist() == pytest.approx([expected, 0.0], rel=1e-14)


@pytest.mark.parametrize("name", ["l1", "l2", "huber"])
def test_images_are_summed_not_averaged(name):
    a, b = normal(3, 2, 4, 4, seed=1), normal(3, 2, 4, 4, seed=2)
    d = Distance(name)(a, b)
    assert d.shape == (3,)
    assert torch.allclose(d, Distance(name)(a.flatten(1), b.flatten(1)), rtol=1e-14)
    assert torch.allclose(d[1:2], Distance(name)(a[1:2], b[1:2]), rtol=1e-14)


@pytest.mark.parametrize("dim", [2, 3072])
def test_huber_constant_follows_the_dimension(dim):
    a, b = torch.zeros(1, dim, dtype=torch.float64), torch.full((1, dim), 0.1, dtype=torch.float64)
    c = 0.00054 * dim**0.5
    assert Distance("huber")(a, b).item() == pytest.approx((0.01 * dim + c**2) ** 0.5 - c, rel=1e-12)


def test_huber_takes_the_norm_of_the_whole_vector():
    # Kinyugo's code sums it over coordinates, which would give twice sqrt(1 + c^2) - c here.
    assert Distance("huber", 1.0)(torch.ones(1, 2), torch.zeros(1, 2)).item() == pytest.approx(3**0.5 - 1, rel=1e-6)


@given(scale=st.floats(1e-3, 1e3), c=st.floats(1e-2, 10))
def test_huber_lies_between_its_limits(scale, c):
    a = scale * normal(4, 5)
    value, norm = Distance("huber", c)(a, torch.zeros_like(a)), a.norm(dim=1)
    slack = 1e-12 * (1 + scale)  # rounding of the subtraction sqrt(...) - c
    assert bool((value <= norm + slack).all())
    assert bool((value <= norm**2 / (2 * c) + slack).all())
    assert bool((value >= norm - c - slack).all())


@pytest.mark.parametrize("distance", [Distance("l1"), Distance("l2"), Distance("huber"), Distance("huber", 0.0)])
def test_gradient_at_zero_is_finite(distance):
    a = torch.zeros(2, 3, requires_grad=True)
    distance(a, torch.zeros(2, 3)).sum().backward()
    assert a.grad is not None
    assert torch.equal(a.grad, torch.zeros(2, 3))


def test_unknown_distance_names_the_known_ones():
    with pytest.raises(ValueError, match="l1, l2, huber, l2-32, lpips"):
        Distance("l3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "l1", "c": 0.1}, "c belongs to the distance 'huber'"),
        ({"name": "l2", "c": 0.1}, "c belongs to the distance 'huber'"),
        ({"name": "lpips", "c": 0.0}, "c belongs to the distance 'huber'"),
        ({"name": "l2-32", "resize": 64}, "resize belongs to the distance 'lpips'"),
        ({"name": "l2", "pooling": "avg"}, "pooling belongs to"),
        ({"name": "huber", "path": "."}, "path belongs to"),
        ({"name": "l2", "network": torch.dist}, "network belongs to"),
        ({"name": "lpips", "network": torch.dist, "pooling": "avg"}, "leave out network"),
        ({"name": "lpips", "network": torch.dist, "path": "."}, "leave out network"),
        ({"name": "lpips", "pooling": "mean"}, "unknown pooling 'mean'"),
        ({"name": "lpips", "resize": -1}, "0 to keep the size"),
    ],
)
def test_options_that_cannot_work_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Distance(**options)


@pytest.mark.parametrize("name", ["l1", "l2", "huber", "l2-32", "lpips"])
def test_unequal_shapes_do_not_broadcast(name):
    with pytest.raises(ValueError, match="equal shapes"):
        Distance(name)(torch.zeros(3, 3, 8, 8), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["l2-32", "lpips"])
def test_image_distances_refuse_points(name):
    with pytest.raises(ValueError, match=r"images \(B, C, H, W\), got \(3, 2\)"):
        Distance(name)(torch.zeros(3, 2), torch.zeros(3, 2))


def test_distances_are_values():
    assert Distance("lpips", pooling="avg") == Distance("lpips", pooling="avg") != Distance("lpips")
    assert hash(Distance("l2-32")) == hash(Distance("l2-32"))


# --- distances of images ---------------------------------------------------------------------------------------------------


def test_l2_32_looks_between_the_pixels():
    # 64 -> 32 samples midway between two pixels: the mean of 2 x 2 blocks. 16 -> 32 keeps a linear ramp linear inside.
    a, b = normal(2, 3, 64, 64, seed=1), normal(2, 3, 64, 64, seed=2)
    blocks = torch.nn.functional.avg_pool2d(a - b, 2)
    assert torch.allclose(Distance("l2-32")(a, b), blocks.square().flatten(1).sum(1), rtol=1e-12)
    # 128 -> 32 drops pixels, for there is no low-pass filter: each output sees the inner 2 x 2 of its 4 x 4.
    a = torch.zeros(1, 1, 128, 128)
    a[:, :, ::4, ::4] = 1
    assert Distance("l2-32")(a, torch.zeros_like(a)).item() == 0


def standin(a, b):
    rows = torch.arange(a.shape[2], dtype=a.dtype).view(-1, 1) / a.shape[2]
    return ((1 + rows) * (1 + a**2) * (a - b) ** 2).mean((1, 2, 3))


@pytest.mark.parametrize(("size", "resize", "seen"), [(8, None, 224), (255, None, 224), (256, None, 256), (8, 0, 8), (8, 16, 16)])
def test_a_network_sees_resized_images_between_zero_and_one(size, resize, seen):
    calls = []

    def network(a, b):
        calls.append((a, b))
        return standin(a, b)

    a, b = (2 * torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(k)) - 1 for k in (1, 2))
    value = Distance("lpips", resize=resize, network=network)(a, b)
    (x, y), size = calls[0], (seen, seen)
    small = [torch.nn.functional.interpolate(z / 2 + 0.5, size, mode="bilinear", align_corners=False) for z in (a, b)]
    assert torch.allclose(x, small[0], atol=1e-6)
    assert torch.allclose(y, small[1], atol=1e-6)
    assert torch.equal(value, standin(x, y))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The two files with random weights, as piq and torchvision name their content."""
    pytest.importorskip("piq", reason="LPIPS is an extra: pip install cmlab[metrics]")
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {k: v.shape for k, v in vgg16(weights=None, init_weights=False).features.state_dict().items()}
    g = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=g)
        state["features." + name] = noise * (2 / noise[0].numel()) ** 0.5 if noise.ndim == 4 else 0.1 * noise
    folder = tmp_path_factory.mktemp("weights")
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, folder / vgg.VGG_FILE)
    linear = [torch.rand(1, c, 1, 1, generator=g) for c in (64, 128, 256, 512, 512)]
    torch.save(linear, folder / vgg.LPIPS_FILE)
    yield folder
    vgg.load_lpips.cache_clear()


def piqs_own(folder, monkeypatch, pooling):
    import piq
    import piq.perceptual
    from torchvision.models import vgg16

    def with_weights(**_):
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            net = vgg16(weights=None, init_weights=False)
        net.features.to_empty(device="cpu")
        state = torch.load(folder / vgg.VGG_FILE)
        net.features.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("features")})
        return net

    monkeypatch.setattr(piq.perceptual, "vgg16", with_weights)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: torch.load(folder / vgg.LPIPS_FILE))
    return piq.LPIPS(replace_pooling=pooling == "avg", reduction="none")


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_lpips_is_piqs(weights, monkeypatch, pooling, untouched_rng):
    a, b = normal(2, 3, 16, 16, seed=1).float(), normal(2, 3, 16, 16, seed=2).float()
    a.requires_grad_()
    d = Distance("lpips", resize=32, pooling=pooling, path=str(weights))(a, b)
    big = [torch.nn.functional.interpolate(x, size=32, mode="bilinear") for x in (a, b)]
    expected = piqs_own(weights, monkeypatch, pooling)((big[0] + 1) / 2, (big[1] + 1) / 2)
    assert torch.equal(d, expected)
    assert d.shape == (2,)
    assert bool((d > 0.01).all())
    d.sum().backward()
    assert a.grad is not None
    assert float(a.grad.abs().sum()) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lpips_keeps_its_precision_where_networks_run_in_less(weights, dtype):
    # Neighbours of a consistency loss are a thousandth apart: in bfloat16 the distance between them came out 26 times too large.
    a = normal(2, 3, 16, 16, seed=1).float().clamp(-1, 1)
    b, distance = a + 0.001 * normal(2, 3, 16, 16, seed=2).float(), Distance("lpips", resize=32, path=str(weights))
    with torch.autocast("cpu", dtype):
        inside = distance(a, b)
    assert inside.dtype == torch.float32 and torch.equal(inside, distance(a, b))


def test_lpips_in_the_continuous_time_loss(weights):
    # Forward over reverse mode through VGG: piq's own class moves its weights in every call, which ends in a crash there.
    model = tiny("unet")
    x0 = normal(2, 3, 8, 8, seed=3).float()
    distance = Distance("lpips", resize=32, network=vgg.load_lpips("max", str(weights)))
    out = ContinuousLoss(distance=distance)(model, x0, draws=seeded())
    out.loss.sum().backward()
    assert bool(out.loss.isfinite().all())
    assert bool((out.loss > 0).all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    # And the product is that with the Hessian which double reverse mode gives.
    y, v = normal(1, 3, 16, 16, seed=1), normal(1, 3, 16, 16, seed=2)
    double = Distance("lpips", resize=0, path=str(weights))
    a = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(double(a, y).sum(), a, create_graph=True)
    (expected,) = torch.autograd.grad((gradient * v).sum(), a)
    assert torch.allclose(hessian_product(double, y, v), expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


def test_lpips_has_a_gradient_where_no_feature_answers(weights, tmp_path):
    # All biases -1e3: every ReLU is off, all lengths are 0.
    state = torch.load(weights / vgg.VGG_FILE)
    torch.save({k: v - 1e3 if k.endswith("bias") else v for k, v in state.items()}, tmp_path / vgg.VGG_FILE)
    torch.save(torch.load(weights / vgg.LPIPS_FILE), tmp_path / vgg.LPIPS_FILE)
    a = normal(1, 3, 16, 16, seed=1).requires_grad_()
    d = Distance("lpips", resize=0, path=str(tmp_path))(a, torch.zeros_like(a))
    d.sum().backward()
    assert d.item() == 0
    assert torch.equal(a.grad, torch.zeros_like(a))  # type: ignore[arg-type]


def test_lpips_of_grey_images_is_that_of_three_equal_channels(weights):
    d = Distance("lpips", resize=32, path=str(weights))
    a, b = normal(1, 1, 16, 16, seed=1).float(), normal(1, 1, 16, 16, seed=2).float()
    assert torch.equal(d(a, b), d(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))
    assert d(a, a).item() == 0
    with pytest.raises(ValueError, match="RGB or grey images, got 2 channels"):
        d(a.expand(-1, 2, -1, -1), b.expand(-1, 2, -1, -1))


def test_lpips_is_built_once_and_pools_as_told(weights):
    assert vgg.load_lpips("max", str(weights)) is vgg.load_lpips("max", str(weights))
    a, b = normal(1, 3, 16, 16, seed=1).float(), normal(1, 3, 16, 16, seed=2).float()
    values = [Distance("lpips", resize=32, pooling=p, path=str(weights))(a, b).item() for p in ("max", "avg")]
    assert values[0] != values[1]


def test_lpips_without_a_network_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    pytest.importorskip("piq", reason="LPIPS is an extra: pip install cmlab[metrics]")

    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        Distance("lpips")(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    for part in ("vgg16-397923af.pth", "lpips_weights.pt", str(tmp_path / "checkpoints"), "no route to host", "https://", "path="):
        assert part in str(error.value)


def test_lpips_fetches_only_what_is_missing_and_checks_it(tmp_path, monkeypatch, weights):
    fetched = []

    def fetch(url, file, digest, progress):
        fetched.append((url.rpartition("/")[2], digest))
        (tmp_path / "checkpoints" / vgg.VGG_FILE).write_bytes((weights / vgg.VGG_FILE).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / vgg.LPIPS_FILE).write_bytes((weights / vgg.LPIPS_FILE).read_bytes())
    vgg.load_lpips("max")
    assert fetched == [("vgg16-397923af.pth", "397923af")]


def test_a_named_folder_is_never_filled_by_a_download(tmp_path, monkeypatch):
    pytest.importorskip("piq", reason="LPIPS is an extra: pip install cmlab[metrics]")
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(FileNotFoundError, match=f"not in {tmp_path}"):
        vgg.load_lpips("max", str(tmp_path))


def test_weight_files_are_not_executed(tmp_path, weights):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    (tmp_path / vgg.VGG_FILE).write_bytes((weights / vgg.VGG_FILE).read_bytes())
    torch.save([Evil()], tmp_path / vgg.LPIPS_FILE)
    with pytest.raises(pickle.UnpicklingError):
        vgg.load_lpips("max", str(tmp_path))
    assert not (tmp_path / "executed").exists()
