"""Models from anywhere: files, hubs, addresses, functions."""

from .sources import load_model

__all__ = ["load_model"]
