"""What is not in the zoo, and why."""

from __future__ import annotations

__all__ = ["LEFT_OUT"]

LEFT_OUT: dict[str, str] = {
    "asteroid XUMX": "refuses torch 2 when it is made",
}
"""Reasons by network."""
