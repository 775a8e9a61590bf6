"""The search: learn which channels to keep, under a budget."""

from .budget import Budget
from .learn import SearchResult, learn_gates
from .selection import select

__all__ = ["Budget", "SearchResult", "learn_gates", "select"]
