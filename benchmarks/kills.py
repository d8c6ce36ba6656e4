"""Kill a small training at random instants, resume it each time, and compare its weights with those of a run that nobody disturbed.

    python benchmarks/kills.py --kills 50

Each life of the run is its own process. It saves every third step, and is ended by SIGKILL up to 0.1 s after its first save, which
is some saves later. What is counted: files under a state's name that cannot be read (there must be none), and whether the final
weights are equal to the bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cmlab import checkpoints
from cmlab.runs import RunFolder, read_state

PRESET = "8gaussians-ct"  # a target average, two schedules: much to get wrong


@dataclass
class Report:
    """What came of it."""

    kills: int
    resumed_at: list[int]
    states_seen: int
    unreadable: int
    equal: bool
    seconds: float


def command(out: Path, steps: int) -> list[str]:
    words = [PRESET, "--steps", str(steps), "--batch", "16", "--network.width", "16", "--emas", "0.5", "--out", str(out)]
    return [sys.executable, "-m", "cmlab", "train", *words, "--save-every", "3", "--device", "cpu", "--resume"]


def life(out: Path, steps: int, wait: float | None) -> bool:
    """One process; killed ``wait`` seconds after its first new state if it lives that long. True if it finished."""
    before = {p.name for p in RunFolder(out / PRESET).states()}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command(out, steps), env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=quiet, stderr=quiet)
    if wait is None:
        return process.wait() == 0
    while process.poll() is None and {p.name for p in RunFolder(out / PRESET).states()} <= before:
        time.sleep(0.002)
    time.sleep(wait)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    return process.wait() == 0


def kill_and_resume(folder: Path, kills: int, seed: int, steps: int, progress=lambda text: None) -> Report:
    """Two runs in ``folder``: one left alone, one killed ``kills`` times."""
    start, draw = time.perf_counter(), random.Random(seed)
    if not life(folder / "whole", steps, None):
        raise RuntimeError("the undisturbed run failed")
    out, resumed, seen, unreadable, done = folder / "killed", [], 0, 0, 0
    while done < kills:
        if life(out, steps, draw.uniform(0, 0.1)):
            raise RuntimeError(f"the run finished after {done} kills: give it more steps than {steps}")
        done += 1
        for path in RunFolder(out / PRESET).states():
            seen += 1
            try:
                read_state(path)
            except ValueError:
                unreadable += 1
        at = RunFolder(out / PRESET).newest()[0].facts["step"]
        resumed.append(at)
        progress(f"kill {done}: resumes at step {at}")
    finished = life(out, steps, None)
    files = [f"{PRESET}{tail}.safetensors" for tail in ("", "-ema-0.5")]
    pairs = [[checkpoints.load(side / name)[0].state_dict() for side in (folder / "whole", out)] for name in files]
    equal = finished and all(torch.equal(v, b[k]) for a, b in pairs for k, v in a.items())
    return Report(done, resumed, seen, unreadable, equal, time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="by default 100 for each kill")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = kill_and_resume(Path(folder), o.kills, o.seed, o.steps or 100 * o.kills, print)
    print(report)
    return 0 if report.equal and not report.unreadable else 1


if __name__ == "__main__":
    sys.exit(main())
