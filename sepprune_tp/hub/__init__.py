"""Pruned models for others: a repository with a page, on the Hugging Face hub."""

from .publishing import publish, write_repository

__all__ = ["publish", "write_repository"]
