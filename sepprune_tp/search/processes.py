"""The processes that search together, and what they have to agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ..errors import InputError, SearchError, SepPruneError

__all__ = ["Processes"]

T = TypeVar("T")


class Processes:
    """All processes of torch.distributed's default group; without one, this process alone.

    All of them call the same methods in the same order. Alone, no method does anything but what it
    is asked to do.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
    """

    def __init__(self, device: torch.device) -> None:
        """Look whether there are others.

        Args:
            device: Where what is exchanged has to be: that of the model.
        """
        several = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if several else 0
        self.count = distributed.get_world_size() if several else 1
        self._device = device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and decides."""
        return self.rank == 0

    def attempt(self, do: Callable[[], T]) -> T:
        """Do something that can fail in one process; if it does, all stop and none waits.

        Args:
            do: What to do; it must not wait for other processes.

        Raises:
            Exception: What ``do`` raised here; else the error of ours that another process met.
            SearchError: If another process met an error that is not ours.
        """
        if self.count == 1:
            return do()
        error: Exception | None = None
        try:
            found = do()
        except Exception as caught:
            error = caught
        failed = torch.tensor([float(error is not None)], device=self._device)
        distributed.all_reduce(failed)
        if not bool(failed):
            return found
        told = [self._told_by(rank, _description(error)) for rank in range(self.count)]
        if error is not None:
            raise error
        rank, (kind, text) = next((r, t) for r, t in enumerate(told) if t is not None)
        raise kind(f"process {rank} of {self.count}: {text}")

    def in_turn(self, do: Callable[[], T]) -> T:
        """As :meth:`attempt`, the first process before the others: it measures undisturbed."""
        if self.first:
            found = self.attempt(do)
            self.attempt(_nothing)
            return found
        self.attempt(_nothing)
        return self.attempt(do)

    def by_first(self, do: Callable[[], T]) -> T:
        """Let the first process do something, as :meth:`attempt`; all get what it found."""
        found: Any = self.attempt(do if self.first else _nothing)
        told: T = found if self.count == 1 else self._told_by(0, found)
        return told

    def check_same(self, settings: dict[str, Any]) -> None:
        """Refuse to work together on different things.

        Raises:
            InputError: With the settings that differ from those of the first process.
        """
        wanted = self.by_first(lambda: settings)

        def compare() -> None:
            if differ := [k for k in settings if settings[k] != wanted.get(k)]:
                pairs = (f"{k}={settings[k]!r}, not {wanted.get(k)!r}" for k in differ)
                raise InputError(
                    f"process {self.rank} searches with {'; '.join(pairs)} as process 0 does. "
                    "Processes of one torch.distributed group make one search: give all of them "
                    "the same model and settings."
                )

        self.attempt(compare)

    def mean(self, tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
        """Means over the processes, the same in all of them.

        Args:
            tensors: Of the same shapes in all processes.
            weight: Of this process, above 0.

        Returns:
            Tensors like those given, detached.
        """
        if self.count == 1:
            return [tensor.detach() for tensor in tensors]
        flat = self._flat(tensors) * weight
        flat = torch.cat([flat, flat.new_tensor([weight])])
        distributed.all_reduce(flat)
        return _like(flat[:-1] / flat[-1], tensors)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return flag
        found = torch.tensor([float(flag)], device=self._device)
        distributed.all_reduce(found)
        return bool(found)

    def follow_first(self, tensors: Sequence[Tensor]) -> None:
        """Write the values of the first process into these tensors."""
        if self.count > 1:
            flat = self._flat(tensors)
            distributed.broadcast(flat, 0)
            with torch.no_grad():
                for tensor, value in zip(tensors, _like(flat, tensors), strict=True):
                    tensor.copy_(value)

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """All values in a row, float64, where the processes exchange them."""
        return torch.cat([t.detach().to(self._device, torch.float64).flatten() for t in tensors])

    def _told_by(self, rank: int, value: Any) -> Any:
        """What one process holds, told to all."""
        values = [value]
        distributed.broadcast_object_list(values, rank, device=self._device)
        return values[0]


def _nothing() -> Any:
    return None


def _description(error: Exception | None) -> tuple[type[SepPruneError], str] | None:
    """An error as other processes can raise it."""
    if error is None:
        return None
    if isinstance(error, SepPruneError):
        return type(error), str(error)
    return SearchError, f"{type(error).__name__}: {error}"


def _like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Values in a row, in the shapes and types of tensors."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    pairs = zip(parts, tensors, strict=True)
    return [part.view(tensor.shape).to(tensor) for part, tensor in pairs]
