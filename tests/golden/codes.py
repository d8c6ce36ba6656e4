"""Imports every module of runners."""

from . import losses, networks, precond, samplers, schedules

__all__ = ["losses", "networks", "precond", "samplers", "schedules"]
