"""Devices by the names that a person gives, and what machine they are."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> "torch.device":
    """The device of that name, "auto" for a GPU where there is one; one of several processes gets the GPU of its own rank.

    For the programs: on a GPU it also lets torch multiply float32 in TF32 and try out convolutions. Raises ValueError for a device
    that is not here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if name != "cuda":
            way = f"say --device cuda, not {name}, and choose with CUDA_VISIBLE_DEVICES"
            raise ValueError(f"several processes take a GPU each: {way}")
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0].partition(". ")[0]
        raise ValueError(f"the device {name!r} cannot be used here ({why}): try --device cpu") from error
    if device.type == "cuda":  # NVIDIA_TF32_OVERRIDE=0 in the environment takes the first back
        torch.set_float32_matmul_precision("high")  # float32 products in TF32, as torch has convolutions anyway
        torch.backends.cudnn.benchmark = True
    return device


def usable_device(name: "torch.device | str") -> "torch.device":
    """The device of that name; raises ValueError where torch knows none, or has no such GPU."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device {str(name)!r}: say 'cpu', or 'cuda' for a GPU") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"torch sees {torch.cuda.device_count()} GPUs here and cannot use {str(name)!r}: say device='cpu'")
    return device


def machine(device: "torch.device") -> str:
    """The model of a GPU, or of this machine's processor."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
