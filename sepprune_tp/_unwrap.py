"""Models inside wrappers: everything here works on the module inside, under its own names.

One rule: ``DataParallel``, ``DistributedDataParallel`` and what ``torch.compile`` returns are taken
off from the outside until a plain module is left. The wrappers stay usable: they hold the very
module that is gated or pruned. Compiled code is not used while channels are followed or gates are
on, and compiles anew after pruning; a ``DistributedDataParallel`` must be made anew after pruning,
for it watches the parameters that it was given.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .errors import InputError

_CAN_RUN_EAGERLY = hasattr(torch.compiler, "set_stance")  # since torch 2.6

__all__ = ["eagerly", "keep_random_state", "unwrapped", "warn_if_distributed"]


def unwrapped(model: nn.Module) -> nn.Module:
    """Take the wrappers off a model.

    Args:
        model: A module, maybe in ``DataParallel``, ``DistributedDataParallel`` or
            ``torch.compile``, in any order.

    Returns:
        The module inside; the same object every time.

    Raises:
        InputError: If it is no module, TorchScript, sharded over processes (FSDP), or has compiled
            parts that this torch cannot run as Python.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    inside = model
    while True:
        if isinstance(inside, (DataParallel, DistributedDataParallel)):
            inside = inside.module
        elif type(inside).__module__.startswith("torch._dynamo"):
            inside = inside._orig_mod  # type: ignore[assignment]
        else:
            break
    _refuse(inside)
    return inside


def _refuse(model: nn.Module) -> None:
    """Refuse what has no Python code or no whole parameters to cut."""
    for name, module in model.named_modules():
        where = f"its part '{name}'" if name else f"the {type(model).__name__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{where} is TorchScript (torch.jit.script or trace), whose layers cannot be cut. "
                "Give the Python model that it was made from, and script or trace the pruned "
                "model again (sepprune_tp.exporting.export_model, or sepprune export)."
            )
        if type(module).__module__.startswith("torch.distributed.fsdp"):
            raise InputError(
                f"{where} is sharded over processes (FSDP), whose parameters are pieces. Prune the "
                "plain model on one process and shard the pruned one."
            )
        if not _CAN_RUN_EAGERLY and _is_compiled(module):
            raise InputError(
                f"{where} is compiled in place or wrapped by torch.compile inside the model, and "
                f"torch {torch.__version__} cannot run it as Python: use torch 2.6 or newer, or "
                "give the model before its parts are compiled."
            )


def _is_compiled(module: nn.Module) -> bool:
    wrapped = type(module).__module__.startswith("torch._dynamo")
    return wrapped or getattr(module, "_compiled_call_impl", None) is not None


def warn_if_distributed(model: nn.Module) -> None:
    """Warn that a ``DistributedDataParallel`` has to be made anew once its model is pruned."""
    if isinstance(model, DistributedDataParallel):
        warnings.warn(
            "the module inside DistributedDataParallel will be pruned, but the wrapper still "
            "synchronises the parameters of the dense model: wrap the pruned module "
            "(model.module) in a new DistributedDataParallel before training it.",
            stacklevel=3,
        )


@contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled models as plain Python inside: compiled code sees no hooks and no gates."""
    if "torch._dynamo" not in sys.modules or not _CAN_RUN_EAGERLY:
        yield  # nothing was compiled (importing it takes 2 s), or what is was refused
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def keep_random_state(model: nn.Module) -> Iterator[None]:
    """Give torch's random generators, those of the model's GPUs too, their state back."""
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=sorted(index or 0 for index in devices)):
        yield
