"""Files: written whole or not at all, by one process at a time, and read as data."""

from .writing import (
    check_writable,
    is_running,
    is_write_failure,
    make_folder,
    named_failures,
    write_bytes,
    write_tensors,
    write_text,
    written,
)

__all__ = [
    "check_writable",
    "is_running",
    "is_write_failure",
    "make_folder",
    "named_failures",
    "write_bytes",
    "write_tensors",
    "write_text",
    "written",
]
