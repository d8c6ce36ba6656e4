"""The numbers of the published presets, each with the place that it comes from. No number of theirs is without one."""

import math
from functools import reduce

import pytest

from cmlab.base.registry import PUBLISHED
from cmlab.distances import Distance
from cmlab.losses import EDMLoss
from cmlab.methods.continuous import SCMLoss, TrigLoss
from cmlab.methods.scalings import TrigPrecond
from cmlab.networks.adm import IMAGENET64, LSUN256
from cmlab.networks.song import DDPMPP
from cmlab.schedules import AdaptiveMu, DoublingN, EctPairs, FixedMu, FixedN, GridPairs, LogNormal, ProgressiveN
from cmlab.training.config import HalfLife
from cmlab.training.presets import PRESETS

OWN = {name for name in PUBLISHED if "-small-" in name or name.startswith("mnist")}  # cmlab's own, for small machines
TABLE_3 = "CM, Table 3"
APPENDIX_C = "CM, appendix C"
CODE = "openai/consistency_models, scripts/launch.sh"
JAX = "openai/consistency_models_cifar10, configs and launch.sh"
EDM = "NVlabs/edm, train.py"
README = "NVlabs/edm, README: imagenet-64x64-cond-adm"
ICT = "iCT, Table 1 and appendix"
ECT = "locuslab/ect, run_ecm.sh and the defaults of ct_train.py"
HOUR = "locuslab/ect, run_ecm_1hour.sh"
SCM = "sCM, appendix G.2"
OURS = "our reading"

EDMS = ("cifar10-edm-ddpmpp", "cifar10-edm-ncsnpp")
CM32, CM64 = ("cifar10-cd", "cifar10-ct"), ("imagenet64-cd", "imagenet64-ct")
ECTS, SCMS = ("cifar10-ect", "cifar10-ect-1h"), ("cifar10-sct", "cifar10-scd")
BEDROOM, CAT = ("lsun-bedroom-cd", "lsun-bedroom-ct"), ("lsun-cat-cd", "lsun-cat-ct")
TEACHERS = ("lsun-bedroom-edm", "lsun-cat-edm")
BIG = (*CM64, *BEDROOM, *CAT)
CDS, CTS = ("imagenet64-cd", "lsun-bedroom-cd", "lsun-cat-cd"), ("imagenet64-ct", "lsun-bedroom-ct", "lsun-cat-ct")
AVERAGE = Distance("lpips", pooling="avg")
LARGE = 0.999943

# Field, value, source, presets.
NUMBERS = [
    # How long, how many at a time.
    ("steps", 390_625, f"{EDM}: --duration 200 million images, --batch 512", (*EDMS, "cifar10-trigflow")),
    ("batch", 512, EDM, (*EDMS, "cifar10-trigflow")),
    ("steps", 400_000, f"{JAX}: n_iters 400001", ("cifar10-edm-cm",)),
    ("batch", 512, JAX, ("cifar10-edm-cm",)),
    ("steps", 800_000, TABLE_3, (*CM32, "imagenet64-ct")),
    ("batch", 512, TABLE_3, CM32),
    ("steps", 400_000, ICT, ("cifar10-ict",)),
    ("batch", 1024, ICT, ("cifar10-ict",)),
    ("steps", 200_000, f"{ECT}: --duration 25.6 million images, --batch 128", ("cifar10-ect",)),
    ("steps", 8_000, f"{HOUR}: 80 ticks of 12,800 images", ("cifar10-ect-1h",)),
    ("batch", 128, ECT, ECTS),
    ("steps", 400_000, OURS, SCMS),
    ("batch", 512, SCM, SCMS),
    ("steps", 610_352, f"{README}: --duration 2500 million images, --batch 4096", ("imagenet64-edm",)),
    ("batch", 4096, f"{README}; {CODE}", ("imagenet64-edm",)),
    ("steps", 600_000, f"{APPENDIX_C}: 600k and 300k iterations for LSUN Bedroom and Cat", ("lsun-bedroom-edm",)),
    ("steps", 300_000, APPENDIX_C, ("lsun-cat-edm",)),
    ("batch", 2048, f"{APPENDIX_C}: reduced from 4096 to 2048; launch.sh has 256", TEACHERS),
    ("steps", 600_000, TABLE_3, CDS),
    ("steps", 1_000_000, TABLE_3, ("lsun-bedroom-ct", "lsun-cat-ct")),
    ("batch", 2048, TABLE_3, BIG),
    # How they are optimized.
    ("optimizer", "adam", EDM, (*EDMS, "cifar10-trigflow")),
    ("optimizer", "adam", JAX, ("cifar10-edm-cm",)),
    ("optimizer", "radam", f"{APPENDIX_C}: rectified Adam", (*CM32, *BIG)),
    ("optimizer", "radam", "openai/consistency_models, cm/train_util.py", ("imagenet64-edm", *TEACHERS)),
    ("optimizer", "radam", ICT, ("cifar10-ict",)),
    ("optimizer", "radam", ECT, ECTS),
    ("optimizer", "radam", SCM, SCMS),
    ("lr", 1e-3, EDM, (*EDMS, "cifar10-trigflow")),
    ("lr", 1e-3, JAX, ("cifar10-edm-cm",)),
    ("lr", 4e-4, TABLE_3, CM32),
    ("lr", 1e-4, ICT, ("cifar10-ict",)),
    ("lr", 1e-4, ECT, ECTS),
    ("lr", 1e-4, SCM, SCMS),
    ("lr", 1e-4, f"{README}; {CODE}", ("imagenet64-edm", *TEACHERS)),
    ("lr", 8e-6, TABLE_3, CM64),
    ("lr", 1e-5, TABLE_3, (*BEDROOM, *CAT)),
    ("lr_schedule", "constant", "no source lets it fall", tuple(name for name in PUBLISHED if name not in OWN)),
    ("rampup", 10.0, f"{EDM}: lr_rampup_kimg 10000; {JAX}: warmup", (*EDMS, "cifar10-edm-cm", "cifar10-trigflow")),
    ("rampup", 0.0, f"{APPENDIX_C}: no warm-up", (*CM32, *BIG)),
    ("rampup", 0.0, "openai/consistency_models, cm/train_util.py", ("imagenet64-edm", *TEACHERS)),
    ("rampup", 0.0, f"{ICT}; {ECT}; {SCM}", ("cifar10-ict", *ECTS, *SCMS)),
    ("beta2", 0.99, SCM, SCMS),
    ("beta2", 0.999, "the optimizers' own", tuple(name for name in PUBLISHED if name not in (*OWN, *SCMS))),
    ("weight_decay", 0.0, f"{APPENDIX_C}: no weight decay; {JAX}; {EDM}", tuple(name for name in PUBLISHED if name not in OWN)),
    # The averages of the weights; the first is the result.
    ("averages", (HalfLife(0.5, 0.05),), f"{EDM}: --ema 0.5, ema_rampup_ratio 0.05", (*EDMS, "cifar10-trigflow")),
    ("averages", (0.99929,), f"{JAX}: ema_rate, a half-life of 0.5 million images", ("cifar10-edm-cm",)),
    ("averages", (0.9999,), TABLE_3, CM32),
    ("averages", (0.99993,), ICT, ("cifar10-ict",)),
    ("averages", (0.9999,), f"{ECT}: --ema_beta", ("cifar10-ect",)),
    ("averages", (0.9993,), HOUR, ("cifar10-ect-1h",)),
    ("averages", (HalfLife(0.5, 0.05),), SCM, SCMS),
    ("averages", (LARGE, 0.999, 0.9999), f"{TABLE_3}, {APPENDIX_C}; the others {CODE}", ("imagenet64-edm", *TEACHERS, *CM64)),
    ("averages", (LARGE, 0.9999, 0.99994), f"{TABLE_3}; the others {CODE}", ("lsun-bedroom-ct", *CAT)),
    ("averages", (0.0, 0.9999, 0.99994, LARGE), f"{APPENDIX_C}: zero EMA worked better; the others {CODE}", ("lsun-bedroom-cd",)),
    # What is done to the pictures.
    ("augment", 0.12, EDM, EDMS),
    ("augment", 0.0, f"{APPENDIX_C}: flips alone", ("cifar10-edm-cm", *CM32, "imagenet64-edm", *TEACHERS, *BIG, "cifar10-ict")),
    ("augment", 0.0, f"{ECT}; {SCM}", (*ECTS, "cifar10-trigflow", *SCMS)),
    ("flip", False, f"{EDM}, {ECT}: --xflip; EDM's flips are part of its augmentation", (*EDMS, *ECTS)),
    ("flip", True, f"{APPENDIX_C}: for all models and data sets", ("cifar10-edm-cm", *CM32, "imagenet64-edm", *TEACHERS, *BIG)),
    ("flip", True, OURS, ("cifar10-ict", "cifar10-trigflow", *SCMS)),
    ("labels", False, "CM, ECT and sCM: unconditional", tuple(n for n in PUBLISHED if n not in OWN and not n.startswith("image"))),
    ("labels", True, CODE, ("imagenet64-edm", *CM64)),
    ("precision", "fp16", f"{TABLE_3}; {CODE}", ("imagenet64-edm", *TEACHERS, *BIG)),
    ("precision", "float32", f"{TABLE_3}; {EDM}, {ECT}", tuple(n for n in PUBLISHED if n.startswith("cifar10-") and n not in OWN)),
    # The networks.
    ("network.dropout", 0.13, EDM, (*EDMS, "cifar10-trigflow")),
    ("network.dropout", 0.13, JAX, ("cifar10-edm-cm",)),
    ("network.dropout", 0.0, TABLE_3, (*CM32, *BIG)),
    ("network.dropout", 0.1, f"{README}; {CODE}", ("imagenet64-edm", *TEACHERS)),
    ("network.dropout", 0.3, ICT, ("cifar10-ict",)),
    ("network.dropout", 0.2, ECT, ECTS),
    ("network.dropout", 0.2, SCM, ("cifar10-sct",)),
    ("network.dropout", 0.0, SCM, ("cifar10-scd",)),
    (
        "network.channels",
        DDPMPP.channels,
        f"{EDM}: ddpmpp and ncsnpp",
        tuple(n for n in PUBLISHED if n.startswith("cifar10-") and n not in OWN),
    ),
    ("network.channels", IMAGENET64.channels, CODE, ("imagenet64-edm", *CM64)),
    ("network.channels", LSUN256.channels, CODE, (*TEACHERS, *BEDROOM, *CAT)),
    ("network.encoder", "residual", "NCSN++", ("cifar10-edm-ncsnpp", "cifar10-edm-cm", *CM32, "cifar10-ict")),
    ("network.encoder", "standard", "DDPM++", ("cifar10-edm-ddpmpp", *ECTS, "cifar10-trigflow", *SCMS)),
    ("network.fourier_scale", 16.0, f"{EDM}; {JAX}", ("cifar10-edm-ncsnpp", "cifar10-edm-cm", *CM32)),
    ("network.fourier_scale", 0.02, ICT, ("cifar10-ict",)),
    ("network.augment", 9, f"{EDM}: augment_dim; ECT starts from these weights", (*EDMS, *ECTS)),
    # The losses.
    ("loss", EDMLoss(LogNormal(-1.2, 1.2), "karras", 0.5), "EDM, Table 1", (*EDMS, "cifar10-edm-cm", "imagenet64-edm", *TEACHERS)),
    ("loss.pairs", GridPairs(FixedN(18)), TABLE_3, ("cifar10-cd",)),
    ("loss.pairs", GridPairs(FixedN(40)), TABLE_3, CDS),
    ("loss.pairs", GridPairs(ProgressiveN(2, 150)), TABLE_3, ("cifar10-ct", "lsun-bedroom-ct", "lsun-cat-ct")),
    ("loss.pairs", GridPairs(ProgressiveN(2, 200)), TABLE_3, ("imagenet64-ct",)),
    ("loss.pairs", GridPairs(DoublingN(10, 1280), "lognormal", -1.1, 2.0), ICT, ("cifar10-ict",)),
    (
        "loss.pairs",
        EctPairs(2.0, 8, 8.0, 1.0, -1.1, 2.0, 0.0, math.inf, 0.0),
        f"{ECT}: --double 250 of 2000 ticks",
        ("cifar10-ect",),
    ),
    (
        "loss.pairs",
        EctPairs(256.0, 1, 8.0, 1.0, -1.1, 2.0, 0.0, math.inf, 0.0),
        f"{HOUR}: -q 256, --double 10000",
        ("cifar10-ect-1h",),
    ),
    ("loss.bridge", "heun", TABLE_3, ("cifar10-cd", *CDS)),
    (
        "loss.bridge",
        "noise",
        "CM, Algorithm 3; iCT; ECT; sCM, Algorithm 1",
        ("cifar10-ct", *CTS, "cifar10-ict", *ECTS, "cifar10-sct"),
    ),
    ("loss.bridge", "teacher", "sCM, Algorithm 1", ("cifar10-scd",)),
    ("loss.distance", Distance("lpips"), f"{JAX}: jcm/losses.py, VGG with max pooling", CM32),
    ("loss.distance", AVERAGE, "openai/consistency_models, cm/karras_diffusion.py: LPIPS(replace_pooling=True)", BIG),
    ("loss.distance", Distance("huber"), f"{ICT}: c = 0.00054 sqrt(d)", ("cifar10-ict",)),
    ("loss.distance", Distance("huber", 0.0), f"{ECT}: -c 0", ECTS),
    ("loss.weight", "1", f"{CODE}: --weight_schedule uniform; {JAX}", (*CM32, *BIG)),
    ("loss.weight", "1/dt", f"{ICT}; {ECT}", ("cifar10-ict", *ECTS)),
    ("loss.target", FixedMu(0.0), TABLE_3, ("cifar10-cd",)),
    ("loss.target", FixedMu(0.95), TABLE_3, CDS),
    ("loss.target", AdaptiveMu(2, 0.9), f"{TABLE_3}; both official codes divide by N(k) - 1", ("cifar10-ct",)),
    ("loss.target", AdaptiveMu(2, 0.95), f"{TABLE_3}; both official codes divide by N(k) - 1", CTS),
    ("loss.target", FixedMu(0.0), f"{ICT}; {ECT}", ("cifar10-ict", *ECTS)),
    ("loss", TrigLoss(LogNormal(-1.0, 1.4), False, TrigPrecond()), SCM, ("cifar10-trigflow",)),
    (
        "loss",
        SCMLoss("noise", LogNormal(-1.0, 1.4), warmup=0.025, tangent="normalize", c=None),
        f"{SCM}: H = 10,000 steps; c = 0.1",
        ("cifar10-sct",),
    ),
    ("loss", SCMLoss("teacher", LogNormal(-1.0, 1.4), warmup=0.025), SCM, ("cifar10-scd",)),
    # Where they start, and from what they learn.
    ("init", "", f"{APPENDIX_C}: randomly, as the EDMs; launch.sh copies the teacher", ("cifar10-ct", *CTS)),
    ("init", "", "from nothing", (*EDMS, "cifar10-edm-cm", "cifar10-ict", "cifar10-trigflow", "imagenet64-edm", *TEACHERS)),
    ("init", "cifar10-edm-cm", f"{APPENDIX_C}: with the EDM's weights", ("cifar10-cd",)),
    ("init", "imagenet64-edm", APPENDIX_C, ("imagenet64-cd",)),
    ("init", "lsun-bedroom-edm", APPENDIX_C, ("lsun-bedroom-cd",)),
    ("init", "lsun-cat-edm", APPENDIX_C, ("lsun-cat-cd",)),
    ("init", "cifar10-edm-ddpmpp", f"{ECT}: --transfer edm-cifar10-32x32-uncond-vp", ECTS),
    ("init", "cifar10-trigflow", SCM, SCMS),
]
# FID, as the sources have it: evaluations or steps in the order of the text.
FID = {
    "cifar10-edm-ddpmpp": ("1.97 with 35 evaluations; conditional (--labels) 1.79", "EDM, Table 2"),
    "cifar10-edm-ncsnpp": ("1.98 with 35 evaluations; conditional (--labels) 1.79", "EDM, Table 2"),
    "cifar10-edm-cm": ("2.04 with 35 evaluations", "CM, Table 1"),
    "cifar10-cd": ("3.55, 2.93", "CM, Table 1"),
    "cifar10-ct": ("8.70, 5.83", "CM, Table 1"),
    "cifar10-ict": ("2.83, 2.46", "iCT, Table 2"),
    "cifar10-ect": ("4.54, 2.20 after 100,000 steps, 3.86, 2.15 after 200,000", "ECT, Table 1; locuslab/ect, README"),
    "cifar10-ect-1h": ("two steps 2.73", "ECT, abstract"),
    "cifar10-trigflow": ("2.15", SCM),
    "cifar10-sct": ("2.85, 2.06", "sCM, Table 1"),
    "cifar10-scd": ("3.66, 2.52", "sCM, Table 1"),
    "imagenet64-edm": ("2.44 with 79 evaluations", "CM, Table 2"),
    "imagenet64-cd": ("6.20, 4.70", "CM, Table 2"),
    "imagenet64-ct": ("13.0, 11.1", "CM, Table 2"),
    "lsun-bedroom-edm": ("3.57 with 79 evaluations", "CM, Table 2"),
    "lsun-bedroom-cd": ("7.80, 5.22", "CM, Table 2"),
    "lsun-bedroom-ct": ("16.0, 7.85", "CM, Table 2"),
    "lsun-cat-edm": ("6.69 with 79 evaluations", "CM, Table 2"),
    "lsun-cat-cd": ("11.0, 8.84", "CM, Table 2"),
    "lsun-cat-ct": ("20.7, 11.7", "CM, Table 2"),
}
FIELDS = {field for field, *_ in NUMBERS if "." not in field}


def value(name: str, field: str) -> object:
    return reduce(getattr, field.split("."), PRESETS[name])


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in OWN])
def test_the_numbers_are_those_of_their_sources(name):
    rows = [(field, want, source) for field, want, source, names in NUMBERS if name in names]
    assert len({field for field, *_ in rows}) == len(rows), "a field is said twice"
    wrong = [(field, value(name, field), want, source) for field, want, source in rows if value(name, field) != want]
    assert not wrong
    said = {field.partition(".")[0] for field, *_ in rows}
    assert FIELDS - {"loss"} <= said and "loss" in said and "network" in said, "a number has no source"


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in OWN])
def test_the_text_has_the_fid_of_its_source(name):
    assert FID[name][0] in PUBLISHED.record(name).help


def test_distilled_models_start_from_their_teacher():
    for name in PUBLISHED:
        if PRESETS[name].loss.needs_teacher:
            assert PRESETS[name].init == PRESETS[name].teacher


@pytest.mark.parametrize(("name", "words"), [
    ("lsun-bedroom-edm", "appendix C"), ("lsun-bedroom-cd", "Zero EMA"), ("cifar10-ect", "identity at 0.002"),
    ("cifar10-ct", "from 2 to 151"), ("imagenet64-edm", "2,500 million"), ("imagenet64-ct", "from random weights"),
])  # fmt: skip
def test_a_deviation_is_said_where_the_number_stands(name, words):
    assert words in PUBLISHED.record(name).help
    assert "our reading" not in PUBLISHED.record(name).help


def test_n_and_the_average_pooling_are_those_of_the_text():
    assert PRESETS["cifar10-ct"].loss.pairs.n(1.0) == 151  # type: ignore[union-attr]
    assert PRESETS["cifar10-ict"].loss.pairs.n(0.0) - 1 == 10  # type: ignore[union-attr]
    assert PRESETS["cifar10-ict"].loss.pairs.n(1.0) - 1 == 1280  # type: ignore[union-attr]
    assert HalfLife(50.0, 0).decay(0, 4096) == pytest.approx(LARGE, abs=5e-7)
    assert HalfLife(0.5, 0).decay(0, 512) == pytest.approx(0.99929, abs=5e-6)
    assert round(2_500_000_000 / 4096) == 610_352
