"""Separate recordings of any length into one WAV file per source."""

from .file import separate_file

__all__ = ["separate_file"]
