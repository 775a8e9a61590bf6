"""A search that can be killed: its state is written now and then, and before it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from sepprune_tp.files.locking import alone_with

from ..gates import GateSet
from ..identity import data_identity, fingerprint, loss_identity
from ..interruption import Stop, stoppable
from .masks import Spent
from .processes import Processes
from .rounding import RoundTo
from .state import SearchState, load, restore, save

__all__ = ["Keeper"]

_SECONDS = 30.0  # between writes at most, where one process decides
Settled = tuple[Tensor, dict[str, Spent]]


class Keeper:
    """Keeps the state of one search in a file; without a path it does nothing.

    Inside the block no other search may use the file, and Ctrl-C and SIGTERM wait for the end of a
    step. Of several processes the first one reads and writes.
    """

    def __init__(
        self,
        path: Path | None,
        every: int,
        gates: GateSet,
        state: SearchState,
        processes: Processes,
    ) -> None:
        """Say what to keep.

        Args:
            path: The file.
            every: Steps between writes.
            gates: The gates.
            state: The rest of the state; changed in place.
            processes: Those that search together.
        """
        self._path, self._every = path, every
        self._gates, self._state, self._processes = gates, state, processes
        self._settings: dict[str, Any] = {}
        self._stack, self._signals = ExitStack(), ExitStack()
        self._stop = Stop()
        self._written = time.monotonic()

    def __enter__(self) -> Keeper:
        """Take the file."""
        if self._path is not None:
            path, stack = self._path, self._stack
            self._stop = self._signals.enter_context(stoppable())
            try:
                self._processes.by_first(lambda: stack.enter_context(alone_with(path)))
            except BaseException:
                self._signals.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the file free."""
        with self._signals:  # last: a signal may end the process there
            self._stack.close()

    def begin(self, settings: dict[str, Any], batches: Iterable[Any], loss: Any) -> None:
        """Go on where the file says, if there is one.

        Args:
            settings: What the search is started with.
            batches: All of them, to tell data apart.
            loss: Likewise.

        Raises:
            CheckpointError: If the file is not of a search, or of another search.
        """
        if (path := self._path) is None:
            return
        alone = self._processes.count == 1 or hasattr(batches, "identity")
        self._settings = {
            **settings,
            "model": fingerprint(self._gates.model)[:16],
            "data": data_identity(batches) if alone else None,
            "loss": loss_identity(loss),
        }
        if content := self._processes.by_first(lambda: load(path, self._settings)):
            restore(content, self._gates, self._state)

    def step_done(self, steps: int) -> None:
        """Write the state if it is time; give way to the user, who wants an end.

        Args:
            steps: Of the whole search.

        Raises:
            Interrupted: If a signal came in any process; the state is written.
        """
        if self._path is None:
            return
        step, alone = self._state.step, self._processes.count == 1
        late = alone and time.monotonic() - self._written > _SECONDS
        stopped = self._processes.any(bool(self._stop))
        if stopped or late or step == steps or step % self._every == 0:
            self._save()
        if stopped:
            raise self._stop.reason(f"step {step} of {steps} of the search is in {self._path}")

    def settle(self, round_to: RoundTo, do: Callable[[], Settled]) -> Settled:
        """The final masks: found once, since what is measured differs from run to run.

        Args:
            round_to: How they are rounded; other masks are found for another.
            do: Finds masks (N,) and what they spend.
        """
        if self._path is not None and self._processes.any(bool(self._stop)):
            raise self._stop.reason(f"the search is in {self._path}")
        self._signals.close()  # measuring is no step: it is abandoned
        return self._processes.by_first(lambda: self._settled(round_to, do))

    def _settled(self, round_to: RoundTo, do: Callable[[], Settled]) -> Settled:
        known = self._state.settled
        if known is None or known["round_to"] != round_to:
            keep, found = do()
            told = {name: asdict(entry) for name, entry in found.items()}
            known = {"round_to": round_to, "keep": keep, "spent": told}
            if self._path is not None:
                self._state.settled = known
                self._write()
        return known["keep"], {name: Spent(**entry) for name, entry in known["spent"].items()}

    def _save(self) -> None:
        self._processes.by_first(self._write)
        self._written = time.monotonic()

    def _write(self) -> None:
        if self._path is not None:
            save(self._path, self._gates, self._state, self._settings)
