"""Batches for several processes: each gets its part of every batch.

Letters: B batch, S sources, T time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed

from ..data import MapStyle, batches
from ..errors import InputError
from ..identity import data_identity

__all__ = ["ItemBatches", "Part", "share_of"]


@dataclass(frozen=True)
class Part:
    """Which part of a batch is this process's.

    Attributes:
        rank: Number of the process.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def mine(cls) -> Part:
        """That of this process in torch.distributed's default group; without one, all of it."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def of(self, size: int, where: str) -> slice:
        """Where the part lies in a batch.

        Args:
            size: B.
            where: Which batch, for the message.

        Raises:
            InputError: If the processes cannot share it evenly.
        """
        part, rest = divmod(size, self.count)
        if rest or not part:
            raise InputError(
                f"{where} holds {size} mixtures, which {self.count} processes cannot share evenly. "
                f"Give batches of a multiple of {self.count}, such as batch_size="
                f"{self.count * (part + 1)} (a DataLoader with drop_last=True leaves out a smaller "
                "last one)."
            )
        return slice(self.rank * part, (self.rank + 1) * part)

    def cut(self, batch: Any, where: str) -> Any:
        """The part of a batch (mixture (B, T), sources (B, S, T)); anything else stays whole."""
        if self.count == 1 or not isinstance(batch, (tuple, list)) or len(batch) != 2:
            return batch
        part = self.of(len(batch[0]), where)
        return batch[0][part], batch[1][part]


@dataclass(frozen=True)
class ItemBatches:
    """:func:`sepprune_tp.data.batches` as often as wanted, or a part of each.

    Attributes:
        dataset: Sized map from index to (mixture (T,), sources (S, T)).
        batch_size: B, of all parts together.
        shuffle_seed: Seed of the order; None: the data set's own.
        part: Which part is read; the rest of the items are not touched.
    """

    dataset: MapStyle
    batch_size: int
    shuffle_seed: int | None = None
    part: Part = Part()

    def shared(self, part: Part) -> ItemBatches:
        """A part of the same batches.

        Raises:
            InputError: If the processes cannot share a batch evenly.
        """
        if self.batch_size > 0:
            part.of(self.batch_size, f"every batch (batch_size={self.batch_size})")
        return replace(self, part=part)

    def identity(self) -> str:
        """Of the whole batches, for :func:`sepprune_tp.identity.data_identity`."""
        return f"{data_identity(self.dataset)} by {self.batch_size}, seed {self.shuffle_seed}"

    def __iter__(self) -> Iterator[Any]:
        """Mixtures (B, T) and sources (B, S, T) without an end."""
        return self.starting(0)

    def starting(self, step: int) -> Iterator[Any]:
        """The same from a step on."""
        order: Any = _Indices(len(self.dataset))
        part = self.part.of(self.batch_size, "a batch") if self.batch_size > 0 else slice(None)
        size, seed = self.batch_size, self.shuffle_seed
        for indices, _ in batches(order, size, start=step, shuffle_seed=seed):
            items = [self.dataset[int(index)] for index in indices[part]]
            yield torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])


@dataclass(frozen=True)
class _Indices:
    """A data set whose items are their own numbers."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(index), torch.tensor(index)


@dataclass(frozen=True)
class _Parts:
    """Parts of the batches of something that can be iterated again."""

    batches: Iterable[Any]
    part: Part

    def __iter__(self) -> Iterator[Any]:
        return (self.part.cut(b, f"batch {n}") for n, b in enumerate(self.batches))


def share_of(batches: Iterable[Any]) -> Iterable[Any]:
    """This process's part of every batch, for ``learn_gates`` in several processes.

    All processes give the same batches, of the size that one step sees in all. Of the processes
    that torch.distributed has been told about, number r takes the r-th part of every batch.

    Args:
        batches: Of (mixture (B, T), sources (B, S, T)); a list gives a list, a generator a
            generator, of :class:`ItemBatches` only the own items are read.

    Returns:
        Batches of B / W mixtures for W processes; without a process group, ``batches`` itself.

    Raises:
        InputError: If a batch cannot be shared evenly; of a list at once, otherwise when it comes.
    """
    part = Part.mine()
    if part.count == 1:
        return batches
    if isinstance(batches, ItemBatches):
        return batches.shared(part)
    parts = _Parts(batches, part)
    if isinstance(batches, Sequence):
        return list(parts)  # the same views on every pass, so that teachers can remember them
    return iter(parts) if isinstance(batches, Iterator) else parts
