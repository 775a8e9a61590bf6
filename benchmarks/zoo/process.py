"""A measurement in a process of its own, ended at a limit of time or memory; Linux only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["measured"]

Measure = Callable[[Any, Callable[[dict[str, Any]], None]], None]
FRESH = multiprocessing.get_context("fork")  # imports are shared; nothing has run before


def measured(measure: Measure, row: Any, seconds: float, gigabytes: float) -> dict[str, Any]:
    """Run a measurement and gather what it tells.

    Args:
        measure: Takes the row and a function that takes figures.
        row: The row.
        seconds: Time after which the process is ended.
        gigabytes: Memory at which it is ended.

    Returns:
        The figures; ``seconds`` and ``mb`` of the process; and ``ended`` if it did not end by
        itself in order: why.
    """
    receiver, sender = FRESH.Pipe(duplex=False)
    process = FRESH.Process(target=_run, args=(measure, row, sender), daemon=True)
    began, peak, ended = time.perf_counter(), 0.0, ""
    found: dict[str, Any] = {}
    process.start()
    sender.close()
    while True:
        try:
            if receiver.poll(0.05):
                found |= receiver.recv()
                continue
        except EOFError:
            break
        peak = max(peak, _resident(process.pid or 0))
        if peak > gigabytes * 1024:
            ended = f"ended at {gigabytes:g} GB of memory"
        elif time.perf_counter() - began > seconds:
            ended = f"ended after {seconds:g} s"
        if ended:
            process.kill()
            break
    process.join()
    if not ended and process.exitcode:
        code = process.exitcode
        ended = f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    found |= {"seconds": round(time.perf_counter() - began, 1), "mb": round(peak)}
    return found | ({"ended": ended} if ended else {})


def _run(measure: Measure, row: Any, sender: Connection) -> None:
    """The process: quiet, without the network, on one thread."""
    warnings.simplefilter("ignore")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    socket.socket.connect = _refused  # type: ignore[method-assign]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    import torch

    torch.set_num_threads(1)
    try:
        measure(row, sender.send)
    except Exception as error:
        sender.send({"broken": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def _refused(*_: Any) -> None:
    raise OSError("the zoo runs without the network")


def _resident(pid: int) -> float:
    """MB that a process holds; 0 if it has just ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(found[0]) / 1024 if found else 0.0
