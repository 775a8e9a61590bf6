"""The search: learn which channels to keep, under a budget."""

from .budget import Budget
from .learn import SearchResult, learn_gates
from .masks import Spent, family, masks_for, spent
from .selection import select

__all__ = [
    "Budget",
    "SearchResult",
    "Spent",
    "family",
    "learn_gates",
    "masks_for",
    "select",
    "spent",
]
