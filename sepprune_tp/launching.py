"""Run a function in several processes, one a device, with Lightning's Fabric.

Those who start processes by themselves (torchrun, Fabric) need none of this: ``learn_gates`` and
``finetune`` work together with the other processes that they find.
"""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from sepprune_tp.errors import InputError, SearchError, SepPruneError, require
from sepprune_tp.interruption import passed_on

__all__ = ["launch", "launched", "processes_for"]

T = TypeVar("T")
_EXHAUSTED = "was the memory exhausted? Use fewer devices or smaller batches."
_LOST = re.compile(r"connection (reset|closed|refused)|remote process exited", re.IGNORECASE)


def launched() -> bool:
    """Whether this process is one of several already, of torchrun or Lightning."""
    together = distributed.is_available() and distributed.is_initialized()
    return together or "LOCAL_RANK" in os.environ


def processes_for(devices: int | str, accelerator: str = "auto") -> int:
    """How many processes a choice of devices means.

    Args:
        devices: Lightning's: a number, ``"auto"``, ``-1`` or a list such as ``"0,1"``.
        accelerator: Lightning's: ``"cpu"``, ``"gpu"``, ``"auto"``...

    Raises:
        InputError: If this machine does not have them.
        MissingExtraError: If Lightning is not installed.
    """
    return 1 if devices in (1, "1") else int(_fabric(devices, accelerator).strategy.num_processes)


def launch(do: Callable[..., T], *args: Any, devices: int | str, accelerator: str = "auto") -> T:
    """Call a function in new processes, with a process group, and return what the first one found.

    Args:
        do: A function of a module. It gets the device of its process and copies of ``args``, with
            tensors on the CPU.
        *args: Anything that can be pickled.
        devices: As for :func:`processes_for`.
        accelerator: Likewise.

    Returns:
        What ``do`` returned in process 0, tensors on the CPU.

    Raises:
        SepPruneError: The first error of ours in any process; all of them are ended.
        SearchError: If a process ended with another error, or was killed.
        InputError: If something cannot be pickled, or there are no such devices.
        MissingExtraError: If Lightning is not installed.
    """
    fabric = _fabric(devices, accelerator)
    with tempfile.TemporaryDirectory() as name, _same_environment():
        folder = Path(name)
        try:
            torch.save((do, args), folder / "call")
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"devices={devices} starts processes that get copies of model, data and loss, but "
                f"something in them cannot be copied: {error}. Define functions and classes at the "
                "top of a module, give lists or data sets rather than generators, or start the "
                "processes yourself with torchrun."
            ) from error
        try:
            with passed_on():
                fabric.launch(_work, folder)
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _reason(folder, error) from error
        found: T = torch.load(folder / "result", weights_only=False)
        return found


def _work(fabric: Any, folder: Path) -> None:
    """What each process does."""
    rank = fabric.global_rank
    try:
        do, args = torch.load(folder / "call", map_location="cpu", weights_only=False)
        found = do(fabric.device, *args)
        if rank == 0:
            torch.save(found, folder / "result")
    except Exception as error:
        ours = isinstance(error, SepPruneError)
        text = str(error) if ours else f"process {rank} ended with {type(error).__name__}: {error}"
        torch.save((type(error) if ours else SearchError, text), folder / f"{rank}.part")
        os.replace(folder / f"{rank}.part", folder / f"{rank}.error")
        raise


def _reason(folder: Path, error: Exception) -> SepPruneError:
    """The first error that a process left, or that one was killed."""
    left = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    if not left:
        return SearchError(f"{error}; {_EXHAUSTED}")
    kind, text = torch.load(left[0], weights_only=False)
    if _LOST.search(text):  # noticed before the process that is gone
        text += f" Another process was lost; {_EXHAUSTED}"
    reason: SepPruneError = kind(text)
    return reason


def _fabric(devices: int | str, accelerator: str) -> Any:
    """Lightning's launcher, of processes that start anew and not as copies of this one."""
    with warnings.catch_warnings():  # Lightning's imports warn about their own dependencies
        warnings.simplefilter("ignore")
        require("lightning", "train", "Using several devices")
        from lightning.fabric import Fabric
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        try:
            return Fabric(accelerator=accelerator, devices=devices, strategy="ddp_spawn")
        except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"devices={devices!r} with accelerator={accelerator!r} cannot be had: {error} Use "
                "devices=1, or accelerator='cpu'."
            ) from error


@contextmanager
def _same_environment() -> Iterator[None]:
    """Take back what launching writes into the environment, such as its port."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
