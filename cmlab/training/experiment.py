"""What an experiment is: data, objective, network, and how they are trained, in one frozen dataclass."""

from dataclasses import dataclass
from typing import Literal

from ..data.names import sized
from ..losses import Loss
from ..networks import NetworkConfig
from .config import Ema, HalfLife, TrainConfig


@dataclass(frozen=True)
class _Subject:
    """What is trained on what: the fields of a preset that come first."""

    data: str
    loss: Loss
    network: NetworkConfig


@dataclass(frozen=True)
class Preset(TrainConfig, _Subject):
    """One training run.

    Args:
        data: name of a data set, or the path of its files.
        loss: the objective.
        network: the network's size.
        ema: decay of the averaged weights, per step.
        halflife: the same as EDM says it: million images after which a weight counts half, fewer at first; with ema 0.
        emas: decays of further averages, each written beside the result as NAME-ema-DECAY.
        augment: probability of each of EDM's augmentations, its CIFAR-10 recipe (--network.augment 9); 0 for none.
        init: checkpoint (bundled name or path) to start the weights from; "" for random weights.
        guidance: weight of guidance without a classifier in the finished diffusion model, as it samples and as it teaches; 1 for
            none, others with label_dropout.
        teacher: checkpoint of the diffusion model to distil; "oracle" takes the exact score of a 2D set; "" for losses without.
        labels: whether the model is told the classes, where the data have them.
        flip: mirror half of the images.
        resolution: side that pictures from files are brought to; 0 for their own.
        channels: 1 makes grey of pictures from files, 3 colours of grey ones, which is what None does too.
        half: store the weights in half precision.
    """

    batch: int = 512
    ema: float = 0.999
    augment: float = 0.0
    halflife: float = 0.0
    emas: tuple[float, ...] = ()
    init: str = ""
    teacher: str = ""
    labels: bool = True
    guidance: float = 1.0
    flip: bool = False
    resolution: int = 0
    channels: Literal[1, 3] | None = None
    half: bool = True

    @property
    def data_name(self) -> str:
        """The data with their resolution and channels, as `load_data` takes them."""
        return sized(self.data, self.resolution, self.channels)

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
