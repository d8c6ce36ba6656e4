"""What an experiment is: everything that decides a training run, in one frozen dataclass."""

from dataclasses import dataclass
from typing import Literal

from ..data.names import sized
from ..losses import ConsistencyLoss, DenoisingLoss, ProgressiveLoss
from ..methods.continuous import ContinuousLoss, SCMLoss, TrigLoss
from ..networks import MLPConfig, SongUNetConfig, UNetConfig
from .trainer import Ema, HalfLife, Optimizer, Precision


@dataclass(frozen=True)
class Preset:
    """One training run.

    Args:
        data: name of a data set, or the path of its files.
        loss: the objective.
        network: the network's size.
        steps: optimizer steps.
        batch: samples per step, of all processes together.
        optimizer: radam as for consistency models, adam as for EDM, or adamw.
        lr: its learning rate.
        lr_schedule: "linear" and "cosine" fall to 0 at the last step, of a stage where there are stages; "wsd" (warm up, stable,
            decay) stays until four fifths of the steps are done and falls to 0 in a straight line.
        rampup: million images over which the learning rate first rises from 0.
        beta2: decay of the optimizer's average of squared gradients.
        weight_decay: of the optimizer.
        clip: largest norm of the gradient; 0 for none.
        ema: decay of the averaged weights, per step.
        halflife: the same as EDM says it: million images after which a weight counts half, fewer at first; with ema 0.
        emas: decays of further averages, each written beside the result as NAME-ema-DECAY.
        init: checkpoint (bundled name or path) to start the weights from; "" for random weights.
        teacher: checkpoint of the diffusion model to distil; "oracle" takes the exact score of a 2D set; "" for losses without.
        augment: probability of each of EDM's augmentations, its CIFAR-10 recipe (--network.augment 9); 0 for none.
        label_dropout: part of the labels that is left out, for guidance without a classifier.
        labels: whether the model is told the classes, where the data have them.
        flip: mirror half of the images.
        resolution: side that pictures from files are brought to; 0 for their own.
        accumulate: parts that a batch is split in, to save memory.
        precision: in what the networks compute; weights and averages are float32. "auto" is bf16 where the device computes in it,
            else float32.
        channels_last: order the numbers of images and filters by pixel: faster for image networks. Always so on a GPU.
        seed: fixes the initial weights and every draw.
        half: store the weights in half precision.
    """

    data: str
    loss: DenoisingLoss | ProgressiveLoss | ConsistencyLoss | ContinuousLoss | TrigLoss | SCMLoss
    network: MLPConfig | UNetConfig | SongUNetConfig
    steps: int = 5000
    batch: int = 512
    optimizer: Optimizer = "radam"
    lr: float = 1e-3
    lr_schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    rampup: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip: float = 0.0
    ema: float = 0.999
    halflife: float = 0.0
    emas: tuple[float, ...] = ()
    init: str = ""
    teacher: str = ""
    label_dropout: float = 0.0
    augment: float = 0.0
    labels: bool = True
    flip: bool = False
    resolution: int = 0
    accumulate: int = 1
    precision: Precision = "float32"
    channels_last: bool = False
    seed: int = 0
    half: bool = True

    @property
    def data_name(self) -> str:
        """The data with their resolution, as `load_data` takes them."""
        return sized(self.data, self.resolution)

    @property
    def consistency(self) -> bool:
        """Whether the run makes a consistency model."""
        return self.loss.precond.consistency

    @property
    def averages(self) -> tuple[Ema, ...]:
        """The averages of the weights; the first is the result. Raises ValueError where it is said in two ways."""
        if self.halflife and self.ema:
            raise ValueError("ema and halflife are two ways to say one thing: set one of them to 0")
        return (HalfLife(self.halflife) if self.halflife else self.ema, *self.emas)
