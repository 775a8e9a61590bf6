"""Pruned models on disk: tensors, the shapes around them, and what became of the dense model."""

from .file import (
    FORMAT,
    FORMAT_VERSION,
    Header,
    load_pruned,
    read_header,
    read_lineage,
    save_pruned,
)

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Header",
    "load_pruned",
    "read_header",
    "read_lineage",
    "save_pruned",
]
