"""The version of this package, in the one place that ``setup.py`` and the files we write read."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
