"""Checkpoints whose headers lie: every entry of four models takes every value of a list, and files that no header describes.

The suite tries some of them. As a program it tries all, or as many as it is told, each in a process of its own, and prints what
was slow (of the processor's time), large or a traceback:

    python tests/formats/hostile_headers.py [HOW_MANY]
"""

import copy
import json
import os
import random
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes

from cmlab import MLPConfig, SongUNetConfig, UNetConfig, build_network, sample
from cmlab.denoiser import Denoiser, Precond
from cmlab.evaluation.card import card
from cmlab.formats import checkpoints
from cmlab.methods.scalings import IDDPMPrecond, TrigPrecond, VPPrecond

SECONDS, MEGABYTES = 2.0, 500
DEEP = 200_000 * "[" + 200_000 * "]"
# As JSON, since some of it is none of Python's.
VALUES = [
    *(
        "null",
        "true",
        "-1",
        "0",
        "1",
        "3",
        "1e400",
        "-1e400",
        "NaN",
        "1e300",
        "1e-300",
        "1e9",
        "1000000000",
        str(2**63),
        "9" * 5000,
    ),
    *('"x"', '""', '"\\u001b[2J\\u0007"', json.dumps("a" * 100_000), "[]", "{}", "[[]]", '{"a": "b"}', "[1e400]", '["x", 1]'),
    *(DEEP, 300 * '{"a":' + "1" + 300 * "}", json.dumps(list(range(20_000))), "[2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]"),
]
ABOUT = {
    "preset": "digits-cd", "data": "digits", "data_title": "Digits", "command": "cmlab train", "seconds": 1.5, "device": "cpu",
    "machine": "a", "threads": 1, "images": 10, "precision": "bf16", "sampler": "heun", "steps": 3, "class_names": ["a", "b"],
    "options": {"precision": "bf16"}, "quality": {"FD": 1.0}, "loss_curve": [[1, 2.0], [2, 1.0]], "fd_curve": [[1, 2.0]],
    "two_steps": {"sigmas": [80.0, 1.0], "evaluations": 3, "n": 10}, "licence": "MIT", "other": "o",
    "measured": {"k": {"samples": "s", "features": "f", "reference": "r", "floor_n": 10, "figures": [
        {"name": "FID", "value": 1.0, "error": 0.1, "floor": 1.0}]}},
}  # fmt: skip


@lru_cache
def models() -> list[tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """Weights and headers of four small models with four preconditionings."""
    kinds: list[tuple[Any, Any, tuple[int, ...], int]] = [
        (MLPConfig(8, 1, 3), Precond(sigma_min=0.002), (2,), 0),
        (UNetConfig(8, (1, 2), attention=(4,)), VPPrecond(), (1, 8, 8), 2),
        (SongUNetConfig(8, (1, 1), 1, (4,), embedding="fourier"), IDDPMPrecond(steps=50), (1, 8, 8), 0),
        (UNetConfig(8, (1, 1)), TrigPrecond(), (3, 8, 8), 2),
    ]
    out = []
    for config, precond, shape, classes in kinds:
        torch.manual_seed(0)
        model = Denoiser(build_network(config, shape, classes), precond, shape, classes)
        path = checkpoints.save(Path(os.environ.get("TMPDIR", "/tmp")) / f"hostile-{os.getpid()}.safetensors", model, ABOUT)
        out.append((dict(model.net.state_dict()), checkpoints.read_meta(path)))
        path.unlink()
    return out


def _places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    if at:
        yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(1, len(value))):
            yield from _places(value[key], (*at, key))


def _file(weights: dict[str, torch.Tensor], header: str) -> bytes:
    return to_bytes({k: v.contiguous() for k, v in weights.items()}, metadata={"cmlab": header})


def _changed(model: int, place: tuple, value: str) -> bytes:
    weights, meta = models()[model]
    meta = copy.deepcopy(meta)
    inner: Any = meta
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "@@"
    return _file(weights, json.dumps(meta).replace('"@@"', value))


def _weights(change: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    weights, meta = models()[0]
    return _file({k: change(v) for k, v in weights.items()}, json.dumps(meta))


def _wide(width: int) -> bytes:
    """A header of safetensors alone: the data are a hole."""
    meta = copy.deepcopy(models()[0][1])
    meta["config"] |= {"width": width, "depth": 0}
    sizes = {"inp.weight": [width, 2], "inp.bias": [width], "time.weight": [width, 6], "time.bias": [width]}
    sizes |= {"out.weight": [2, width], "out.bias": [2]}
    entries, at = {"__metadata__": {"cmlab": json.dumps(meta)}}, 0
    for name, size in sizes.items():
        count = 4 * torch.Size(size).numel()
        entries[name] = {"dtype": "F32", "shape": size, "data_offsets": [at, at + count]}  # type: ignore[assignment]
        at += count
    text = json.dumps(entries).encode()
    return struct.pack("<QQ", len(text), at)[:8] + text


def _shaped(model: int, shape: list[int]) -> bytes:
    return _changed(model, ("shape",), json.dumps(shape))


SHAPES = [[1, 65536, 65536], [3, 65536, 65536], [3, 1024, 1024], [1, 2048, 2048], [3, 8, 1 << 40], [1 << 31], [2, 1], [1] * 50]
FILES: dict[str, Callable[[], bytes]] = {
    "weights of 1e300": lambda: _weights(lambda v: v.double() * 0 + 1e300),
    "weights of 3e38": lambda: _weights(lambda v: v * 0 + 3e38),
    "weights of 1e30": lambda: _weights(lambda v: v * 0 + 1e30),
    "weights that are not numbers": lambda: _weights(lambda v: v * torch.nan),
    "whole numbers": lambda: _weights(lambda v: v.int()),
    "complex numbers": lambda: _weights(lambda v: v.to(torch.complex64)),
    "numbers of 8 bits": lambda: _weights(lambda v: v.to(torch.float8_e4m3fn)),
    "no numbers": lambda: _weights(lambda v: v[:0]),
    "no weights": lambda: _file({}, json.dumps(models()[0][1])),
    "a hole of 50 GB": lambda: _wide(1_500_000_000),
    "a text of 80 MB": lambda: _file(models()[0][0], json.dumps(models()[0][1] | {"about": {"x": "a" * 80_000_000}})),
    "a text of 3 MB": lambda: _file(models()[0][0], json.dumps(models()[0][1] | {"about": {"x": "a" * 3_000_000}})),
    "a million lists": lambda: _file(models()[0][0], json.dumps(models()[0][1] | {"about": {"x": [[]] * 1_000_000}})),
    "a header of 2^62 bytes": lambda: struct.pack("<Q", 1 << 62) + b"{}",
    "a deep header": lambda: struct.pack("<Q", 2 * len(DEEP)) + DEEP.encode() * 2,
    **{f"model {m} of shape {str(s)[:40]}": lambda m=m, s=s: _shaped(m, s) for m in range(4) for s in SHAPES},
}  # fmt: skip


def cases(n: int | None = None, seed: int = 0) -> list[tuple[str, Callable[[], bytes]]]:
    """Names and makers of hostile files: all, or ``n`` of the changed entries with all others."""
    changed = [(m, place, value) for m in range(4) for place in _places(models()[m][1]) for value in VALUES]
    changed = changed if n is None else random.Random(seed).sample(changed, min(n, len(changed)))
    entries = [(f"{m} {'.'.join(map(str, p))} = {v[:30]}", lambda m=m, p=p, v=v: _changed(m, p, v)) for m, p, v in changed]
    return [*FILES.items(), *entries]


def try_out(path: Path) -> str:
    """What a checkpoint leads to: "" if it makes a finite sample and a card, else the message. Anything else raises."""
    try:
        model, _ = checkpoints.load(path)
        text = card(path)
        assert all(c.isprintable() or c == "\n" for c in text), "control characters"
        assert len(text) < 100_000, "an endless card"
        x = sample(model, model.shape, [0], steps=2, label=0 if model.classes else None)
        assert bool(x.isfinite().all())
    except (checkpoints.CheckpointError, FloatingPointError) as error:
        assert str(error).isprintable(), "control characters"
        assert len(str(error)) < 1000, "an endless message"
        return str(error)
    finally:
        list(checkpoints.usable([path]))
    return ""


def write(path: Path, content: bytes) -> None:
    """The file, with the hole that its header claims."""
    path.write_bytes(content)
    if b"1500000000" in content[:10_000]:
        os.truncate(path, 8 + struct.unpack("<Q", content[:8])[0] + 4 * (1_500_000_000 * 12 + 2))


def main() -> None:
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"hostile-headers-{os.getpid()}"
    folder.mkdir()
    found = cases(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    path, counts = folder / "a.safetensors", {"loads": 0, "refused": 0, "bad": 0}
    slowest, largest = 0.0, 0
    try_out(checkpoints.resolve("two-moons-edm"))  # imports what all of them need
    for name, make in found:
        write(path, make())
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                message = try_out(path)
                if "-v" in sys.argv:
                    print(f"{name}: {message or 'loads'}")
                os._exit(0 if message else 1)
            except BaseException:
                print(f"{name}:")
                traceback.print_exc(limit=-4)
                os._exit(2)
        _, status, used = os.wait4(child, 0)
        took, code = used.ru_utime + used.ru_stime, os.waitstatus_to_exitcode(status)
        slowest, largest = max(slowest, took), max(largest, used.ru_maxrss // 1024)
        counts[{0: "refused", 1: "loads"}.get(code, "bad")] += 1
        if took > SECONDS or used.ru_maxrss // 1024 > MEGABYTES or code not in (0, 1):
            print(f"{name}: status {code}, {took:.2f} s, {used.ru_maxrss // 1024} MB", flush=True)
        path.unlink()
    folder.rmdir()
    print(f"{len(found)} files: {counts}, at most {slowest:.2f} s and {largest} MB")


if __name__ == "__main__":
    main()
