"""Imports every module of runners."""

from . import ect, edm_losses, frames, kinyugo, losses, networks, precond, samplers, schedules

__all__ = ["ect", "edm_losses", "frames", "kinyugo", "losses", "networks", "precond", "samplers", "schedules"]
