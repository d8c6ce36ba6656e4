"""'cmlab convert': read checkpoints of other programs, and write them for these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..base.files import user_path
from .options import Source


@dataclass(frozen=True)
class ConvertOptions:
    """Convert a checkpoint of another program, or write one for it. Nothing in a source is ever executed.

    Sources:
      NAME.pt: OpenAI's consistency_models (EDM, CD and CT on ImageNet-64 and LSUN-256), from its repository's README. Such
        files hold weights alone: say --kind, and for other networks than the published ones --image-size and the heads.
      NAME.pkl: NVlabs' EDM (CIFAR-10, FFHQ, AFHQv2, ImageNet-64) and ECT snapshots, from their repositories' README.
      a folder: a consistency pipeline of the diffusers library, as save_pretrained writes it and the Hugging Face hub has it
        (diffusers-cd_imagenet64_l2 and its like): the folder that holds model_index.json.
      NAME.safetensors or a bundled name: cmlab's own.

    Args:
        source: file or folder to read.
        target: NAME.safetensors (cmlab), NAME.pt (OpenAI) or a folder (diffusers; consistency models).
        kind: for OpenAI's .pt: edm (a diffusion model; the edm_*.pt files) or consistency (cd_*.pt and ct_*.pt).
        sigma_min: for OpenAI's .pt of a consistency model: the level at which it is the identity, by default 0.002.
        image_size: for other networks than OpenAI's published: side of the images.
        heads: for other networks than OpenAI's published: attention heads in each block.
        head_channels: for other networks than OpenAI's published: channels of each attention head; instead of heads.
        heads_up: for other networks than OpenAI's published: heads on the way up, where they differ from heads.
        dtype: half stores weights in 16 bits, which rounds them.
        overwrite: replace the target.
    """

    source: Source
    target: Annotated[Path, tyro.conf.Positional]
    kind: Literal["edm", "consistency"] | None = None
    sigma_min: float | None = None
    image_size: int | None = None
    heads: int | None = None
    head_channels: int | None = None
    heads_up: int | None = None
    dtype: Literal["float", "half"] = "float"
    overwrite: bool = False


def convert(o: ConvertOptions) -> None:
    """Run 'cmlab convert'."""
    from ..formats import convert as formats
    from ..training.presets import find

    facts = formats.Facts(o.kind, o.sigma_min, o.image_size, o.heads, o.head_channels, o.heads_up)
    source = o.source if user_path(o.source).exists() else find(o.source)
    model = formats.convert(source, o.target, facts, o.dtype == "half", o.overwrite)
    kind = "consistency model" if model.traits.consistency else "diffusion model"
    shape = "x".join(str(n) for n in model.shape)
    count = sum(p.numel() for p in model.parameters())
    print(f"{o.target}: {kind}, samples of {shape}, {model.classes or 'no'} classes, {count:,} parameters")
