"""The search: learn which channels to keep, under a budget."""

from .budget import Budget
from .learn import SearchResult, learn_gates
from .masks import Spent, family, masks_for, spent
from .selection import select
from .sharing import share_of

__all__ = [
    "Budget",
    "SearchResult",
    "Spent",
    "family",
    "learn_gates",
    "masks_for",
    "select",
    "share_of",
    "spent",
]
