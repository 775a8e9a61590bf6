"""Latency as a function of the gates: tables of measured layers, and the resource of a budget."""

from .resource import LatencyResource, auto_steps

__all__ = ["LatencyResource", "auto_steps"]
