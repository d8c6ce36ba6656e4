"""The published experiments on images, number by number, and small ones that a CPU finishes in hours.

Each entry is a name, what is to be known about it, and a preset. Sources: CM is Consistency Models (arXiv 2303.01469, Table 3 and
appendix C; the commands in openai/consistency_models' launch.sh differ where it is said), EDM is arXiv 2206.00364 with NVlabs/edm,
iCT arXiv 2310.14189, ECT arXiv 2406.14548 with its code, sCM arXiv 2410.11081. FID is by the authors' weights and code; cmlab has
not trained the large ones. `tests/training/test_published.py` has the numbers once more, each with the place that it comes from.
"""

import math
from dataclasses import replace

from ..base.registry import PUBLISHED
from ..distances import Distance
from ..losses import ConsistencyLoss, EDMLoss, cd, ect, ict
from ..methods.continuous import SCMLoss, TrigLoss
from ..networks import UNetConfig
from ..networks.adm import IMAGENET64, LSUN256
from ..networks.song import DDPMPP, NCSNPP
from ..schedules import AdaptiveMu, EctPairs, FixedMu, FixedN, GridPairs, LogNormal, ProgressiveN
from .experiment import Preset

# CM's PyTorch code, for the larger pictures, pools VGG's features by averages (piq's replace_pooling); its JAX code does not.
LPIPS, LPIPS_AVG = Distance("lpips"), Distance("lpips", pooling="avg")


def _cd(mu: float, n: int, distance: Distance = LPIPS_AVG) -> ConsistencyLoss:
    return ConsistencyLoss(GridPairs(FixedN(n)), "heun", distance, "1", FixedMu(mu))


def _ct(s1: int, mu0: float, distance: Distance = LPIPS_AVG) -> ConsistencyLoss:
    return ConsistencyLoss(GridPairs(ProgressiveN(2, s1)), "noise", distance, "1", AdaptiveMu(2, mu0))


def _ect(q: float, stages: int) -> ConsistencyLoss:
    """ECT's loss on its own pairs, which know neither a lowest nor a highest level."""
    return replace(ect(), pairs=EctPairs(q, stages, sigma_min=0.0, sigma_max=math.inf, closest=0.0))


# --- CIFAR-10, 32 x 32 -----------------------------------------------------------------------------------------------------

_PLAIN = replace(NCSNPP, dropout=0.0)
# EDM on CIFAR-10: 200 million images, Adam 1e-3 that rises over 10 million, half-life of half a million.
_EDM = Preset(
    "cifar10", EDMLoss(), replace(DDPMPP, dropout=0.13, augment=9), 390_625, 512, "adam", 1e-3, "constant", 10.0,
    ema=0.0, halflife=0.5, augment=0.12, labels=False, channels_last=True, half=False,
)  # fmt: skip
# The consistency models' own EDM: the pictures mirrored and nothing else, EDM's half-life as a decay from the first step.
_CM_EDM = replace(_EDM, network=replace(NCSNPP, dropout=0.13), steps=400_000, augment=0.0, flip=True, ema=0.99929, halflife=0.0)
_CM = Preset(
    "cifar10", _cd(0.0, 18, LPIPS), _PLAIN, 800_000, 512, "radam", 4e-4, "constant",
    ema=0.9999, init="cifar10-edm-cm", teacher="cifar10-edm-cm", labels=False, flip=True, channels_last=True, half=False,
)  # fmt: skip
_ICT = replace(
    _CM, loss=ict(), network=replace(NCSNPP, dropout=0.3, fourier_scale=0.02), steps=400_000, batch=1024, lr=1e-4, ema=0.99993,
    init="", teacher="",
)  # fmt: skip
_ECT = replace(
    _EDM, loss=_ect(2.0, 8), network=replace(DDPMPP, dropout=0.2, augment=9), steps=200_000, batch=128, optimizer="radam", lr=1e-4,
    rampup=0.0, ema=0.9999, halflife=0.0, augment=0.0, init="cifar10-edm-ddpmpp",
)  # fmt: skip
_TRIG = replace(_EDM, loss=TrigLoss(), network=DDPMPP, augment=0.0, flip=True)
_SCM = replace(
    _TRIG, loss=SCMLoss("noise", warmup=0.025), network=replace(DDPMPP, dropout=0.2), steps=400_000, optimizer="radam", lr=1e-4,
    rampup=0.0, beta2=0.99, init="",
)  # fmt: skip

# --- small: three classes, conditional, work on 2 x 2 patches: hours on one core -------------------------------------------

_SMALL = Preset(
    "cifar10:automobile,horse,ship", EDMLoss(), UNetConfig(48, (1, 2), blocks=1, resample="pool", patch=2, time_scale=1.0),
    45_000, 32, "muon", 0.01, "wsd", 0.01, beta2=0.99, ema=0.0, halflife=0.03, flip=True, precision="auto",
    channels_last=True, label_dropout=0.1, guidance=2.0,
)  # fmt: skip
_SMALL_STUDENT = replace(
    _SMALL, steps=4000, optimizer="radam", lr=1e-3, lr_schedule="cosine", rampup=0.0, beta2=0.999, ema=0.998, halflife=0.0,
    init="cifar10-small-edm", label_dropout=0.0, guidance=1.0,
)  # fmt: skip
_SMALL_CD = replace(
    _SMALL_STUDENT, loss=cd(40), teacher="cifar10-small-edm", steps=6000, optimizer="muon", lr=0.01, lr_schedule="wsd", beta2=0.99
)
# Larger levels than EDM's density has, and guidance: docs/results.md has what they were worth.
_MNIST = replace(
    _SMALL, data="mnist", loss=EDMLoss(LogNormal(0.0, 1.3)), steps=40_000, batch=64, optimizer="muon", lr=0.02, flip=False,
    label_dropout=0.1, guidance=1.35,
)  # fmt: skip
_MNIST_STUDENT = replace(
    _MNIST, steps=5500, lr=0.01, lr_schedule="cosine", rampup=0.0, ema=0.998, halflife=0.0, init="mnist-edm", label_dropout=0.0,
    guidance=1.0,
)  # fmt: skip

# --- ImageNet 64 x 64 and LSUN 256 x 256 -----------------------------------------------------------------------------------

# EDM's 2,500 million images; the average is EDM's half-life of 50 million at this batch.
_IN64_EDM = Preset(
    "imagenet64", EDMLoss(), replace(IMAGENET64, dropout=0.1, recompute=True), 610_352, 4096, "radam", 1e-4, "constant",
    ema=0.999943, emas=(0.999, 0.9999), resolution=64, flip=True, precision="fp16", accumulate=8, channels_last=True, half=False,
)  # fmt: skip
_IN64 = replace(_IN64_EDM, network=replace(IMAGENET64, recompute=True), steps=600_000, batch=2048, lr=8e-6, accumulate=4)
_LSUN_EDM = replace(
    _IN64_EDM, data="lsun-bedroom", network=replace(LSUN256, dropout=0.1, recompute=True), steps=600_000, batch=2048,
    resolution=256, labels=False,
)  # fmt: skip
_LSUN = replace(_LSUN_EDM, network=replace(LSUN256, recompute=True), lr=1e-5, emas=(0.9999, 0.99994))

# --- the names -------------------------------------------------------------------------------------------------------------

PUBLISHED.register(
    "cifar10-edm-ddpmpp",
    help="EDM, configuration F, DDPM++ 55.7 M, unconditional (NVlabs/edm train.py). 2 days on 8 V100. FID "
    "1.97 with 35 evaluations; conditional (--labels) 1.79.",
)(_EDM)
PUBLISHED.register(
    "cifar10-edm-ncsnpp",
    help="EDM, configuration F, NCSN++ 56.4 M, unconditional (NVlabs/edm train.py). 2 days on 8 V100. FID "
    "1.98 with 35 evaluations; conditional (--labels) 1.79.",
)(replace(_EDM, network=replace(NCSNPP, dropout=0.13, augment=9)))
PUBLISHED.register(
    "cifar10-edm-cm",
    help="The teacher of the consistency models: EDM on NCSN++ with flips alone (openai/consistency_models_cifar10, "
    "cifar10_k_ve). FID 2.04 with 35 evaluations.",
)(_CM_EDM)
PUBLISHED.register(
    "cifar10-cd", help="CD: LPIPS, Heun, N = 18, mu = 0 (CM, Table 3). 8 GPUs. FID of one and two steps 3.55, 2.93."
)(_CM)
PUBLISHED.register(
    "cifar10-ct",
    help="CT: LPIPS, N(k) from 2 to 151, mu0 = 0.9 (CM, Table 3; the authors evaluate step 740,000). 8 "
    "GPUs. FID of one and two steps 8.70, 5.83.",
)(replace(_CM, loss=_ct(150, 0.9, LPIPS), init="", teacher=""))
PUBLISHED.register(
    "cifar10-ict",
    help="iCT: pseudo-Huber, lognormal pairs, N - 1 doubling from 10 to 1280 (iCT, Table 1). A week on 8 GPUs. FID of one "
    "and two steps 2.83, 2.46.",
)(_ICT)
PUBLISHED.register(
    "cifar10-ect",
    help="ECT from EDM's weights (locuslab/ect, run_ecm.sh): q = 2 in 8 stages. The model is the identity at 0.002 and below; "
    "theirs at 0 in training, at 0.003 after it. FID of one and two steps 4.54, 2.20 after 100,000 steps, 3.86, "
    "2.15 after 200,000.",
)(_ECT)
PUBLISHED.register(
    "cifar10-ect-1h",
    help="ECT in an hour on one A100 (locuslab/ect, run_ecm_1hour.sh, its first 8,000 steps): q = 256 from the start. FID of two "
    "steps 2.73.",
)(replace(_ECT, loss=_ect(256.0, 1), steps=8000, ema=0.9993))
PUBLISHED.register(
    "cifar10-trigflow", help="The teacher of sCM in TrigFlow's coordinates (sCM, appendix G.2), trained as EDM is. FID 2.15."
)(replace(_TRIG, network=replace(DDPMPP, dropout=0.13)))
PUBLISHED.register(
    "cifar10-sct",
    help="sCT: RAdam 1e-4, beta2 0.99, dropout 0.2, proposal (-1, 1.4), warm-up of 10,000 steps (sCM, appendix G.2; "
    "400,000 steps are our reading; GroupNorm in place of its double normalisation). FID of one and two steps 2.85, "
    "2.06.",
)(replace(_SCM, init="cifar10-trigflow"))
PUBLISHED.register("cifar10-scd", help="sCD, as sCT without dropout (sCM, appendix G.2). FID of one and two steps 3.66, 2.52.")(
    replace(_SCM, loss=SCMLoss("teacher", warmup=0.025), network=DDPMPP, init="cifar10-trigflow", teacher="cifar10-trigflow")
)
PUBLISHED.register(
    "cifar10-small-edm",
    help="A diffusion model of three classes, made for one core of a CPU: 2 x 2 patches, Muon, guidance. What ships saw as many "
    "images in two parts, the first million with Adam and all labels; what came out is on its card.",
)(_SMALL)
PUBLISHED.register(
    "cifar10-small-cd",
    help="CD of cifar10-small-edm: pseudo-Huber, Heun, N = 40, Muon. What ships was the student of an earlier teacher, without "
    "guidance, before; what came out is on its card.",
)(_SMALL_CD)
PUBLISHED.register(
    "cifar10-small-ect",
    help="ECT from cifar10-small-edm: q = 2 in 6 stages. FD-cls of one step 11.9 from a teacher of 560,000 images; a run of 5,000 "
    "steps from a later one ended worse (pretrained/cards/README.md). FID: not measured yet.",
)(replace(_SMALL_STUDENT, loss=ect(2.0, 6)))
PUBLISHED.register(
    "cifar10-small-ict",
    help="iCT from cifar10-small-edm: its pairs uniform on the grid, N - 1 doubling from 10 to 160. What came out is on its card.",
)(replace(_SMALL_STUDENT, loss=ict(10, 160, "uniform")))
PUBLISHED.register(
    "mnist-edm",
    help="A diffusion model of MNIST, made for one core of a CPU: 2 x 2 patches, Muon, guidance. What ships saw as many images in "
    "two parts, the first 24,000 steps with EDM's density and all labels; what came out is on its card.",
)(_MNIST)
PUBLISHED.register(
    "mnist-cd",
    help="CD of mnist-edm: pseudo-Huber, Heun, N = 40, Muon. What ships took as many steps in two parts; what came out is "
    "on its card.",
)(replace(_MNIST_STUDENT, loss=cd(40), teacher="mnist-edm", steps=12_000, lr_schedule="wsd"))
PUBLISHED.register(
    "mnist-ict",
    help="iCT from mnist-edm: its pairs uniform on the grid, N - 1 doubling from 10 to 160, Muon. What came out is on its card.",
)(replace(_MNIST_STUDENT, loss=ict(10, 160, "uniform"), steps=3000))
PUBLISHED.register(
    "imagenet64-edm",
    help="EDM teacher of the paper (launch.sh, first command: lognormal, dropout 0.1, fp16; CM's code takes RAdam without EDM's "
    "ramp-up; 2,500 million images as in EDM). FID 2.44 with 79 evaluations.",
)(_IN64_EDM)
PUBLISHED.register("imagenet64-cd", help="CD (CM, Table 3). 64 GPUs. FID of one and two steps 6.20, 4.70.")(
    replace(_IN64, loss=_cd(0.95, 40), init="imagenet64-edm", teacher="imagenet64-edm")
)
PUBLISHED.register(
    "imagenet64-ct",
    help="CT from random weights (CM, Table 3; launch.sh: from the teacher's, lr 1e-4). 64 GPUs. FID of one and two steps 13.0, "
    "11.1.",
)(replace(_IN64, loss=_ct(200, 0.95), steps=800_000))
PUBLISHED.register(
    "lsun-bedroom-edm",
    help="EDM teacher of the paper (CM, appendix C: as on ImageNet-64 but for the steps and the batch; launch.sh: batch 256). FID "
    "3.57 with 79 evaluations.",
)(_LSUN_EDM)
PUBLISHED.register(
    "lsun-bedroom-cd",
    help="CD (CM, Table 3; launch.sh: batch 256). 64 GPUs. Zero EMA worked best (CM, appendix C): the result is the weights "
    "themselves. FID of one and two steps 7.80, 5.22.",
)(
    replace(
        _LSUN, loss=_cd(0.95, 40), init="lsun-bedroom-edm", teacher="lsun-bedroom-edm", ema=0.0, emas=(0.9999, 0.99994, 0.999943)
    )
)
PUBLISHED.register(
    "lsun-bedroom-ct",
    help="CT from random weights (CM, Table 3; launch.sh: from the teacher's, lr 5e-5, batch 256). 64 GPUs. FID of one and two "
    "steps 16.0, 7.85.",
)(replace(_LSUN, loss=_ct(150, 0.95), steps=1_000_000))
PUBLISHED.register(
    "lsun-cat-edm",
    help="EDM teacher of the paper (CM, appendix C: as on ImageNet-64 but for the steps and the batch). FID 6.69 with 79 "
    "evaluations.",
)(replace(_LSUN_EDM, data="lsun-cat", steps=300_000))
PUBLISHED.register("lsun-cat-cd", help="CD (CM, Table 3; launch.sh: batch 256). 64 GPUs. FID of one and two steps 11.0, 8.84.")(
    replace(_LSUN, data="lsun-cat", loss=_cd(0.95, 40), steps=600_000, init="lsun-cat-edm", teacher="lsun-cat-edm")
)
PUBLISHED.register(
    "lsun-cat-ct",
    help="CT from random weights (CM, Table 3; launch.sh: from the teacher's, lr 5e-5, batch 256). 64 GPUs. FID of one and two "
    "steps 20.7, 11.7.",
)(replace(_LSUN, data="lsun-cat", loss=_ct(150, 0.95), steps=1_000_000))
