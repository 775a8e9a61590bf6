"""Latency as a function of the gates: tables of measured layers, and the resource of a budget."""

from .resource import LatencyResource

__all__ = ["LatencyResource"]
