"""``optimize_for_inference``: exact rewrites of what a model computes slowly."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._modes import eval_mode
from .._unwrap import eagerly, unwrapped
from ..errors import InputError
from ..profile import call_arguments
from .candidates import STAGES, Stage, candidates_of
from .recording import Recorded, recordable
from .trial import Site, relative_difference, tolerance, try_out

__all__ = ["OptimisationReport", "Rewrite", "optimize_for_inference"]

_END_TO_END = 8
"""How many times the tolerance of one module the whole model may differ."""
_SLOWER = 1.1
"""Time, by that of the module, beyond which a replacement is not kept; measuring is noisy."""


@dataclass(frozen=True)
class Rewrite:
    """One module that was, or was not, replaced.

    Attributes:
        name: Dotted name.
        module: Class of the module.
        change: What was done, e.g. ``"group-norm kernel"``.
        kept: Whether it is in the model.
        reason: Why not, for one that is not: ``"differs"``, ``"slower"``, ``"not called"``,
            ``"inside another"`` (a block that holds it was replaced), ``"the model differs"``; else
            empty.
        difference: Largest difference from the module's output by its largest value.
        speedup: Time of the module by that of its replacement on the example, or None where times
            were not taken.
    """

    name: str
    module: str
    change: str
    kept: bool
    reason: str
    difference: float
    speedup: float | None


@dataclass(frozen=True)
class OptimisationReport:
    """What ``optimize_for_inference`` did.

    Attributes:
        rewrites: One for each replacement that was tried; of several for one module, the best.
        difference: Largest difference of the model's output by its largest value, over ``shapes``.
        shapes: Shapes of the inputs that it was compared on.
    """

    rewrites: tuple[Rewrite, ...]
    difference: float
    shapes: tuple[tuple[int, ...], ...]

    @property
    def kept(self) -> tuple[Rewrite, ...]:
        """Those that are in the model."""
        return tuple(rewrite for rewrite in self.rewrites if rewrite.kept)

    def counts(self) -> dict[str, int]:
        """How many modules each change was kept for."""
        found: dict[str, int] = {}
        for rewrite in self.kept:
            found[rewrite.change] = found.get(rewrite.change, 0) + 1
        return found

    def __str__(self) -> str:
        """A line for each kind of change."""
        lines = [f"{count} x {change}" for change, count in self.counts().items()]
        undone = [r for r in self.rewrites if not r.kept and "differs" in r.reason]
        lines += [
            f"undone: {r.name} ({r.change}): {r.reason} by {r.difference:.1e}" for r in undone
        ]
        return "\n".join([*lines, f"largest difference {self.difference:.1e} of the largest value"])


def optimize_for_inference(
    model: nn.Module,
    example_inputs: Any,
    *,
    inplace: bool = False,
    record: bool = False,
    clock: Callable[[], float] | None = time.perf_counter,
) -> nn.Module:
    """Rewrite what a model computes slowly, dense or pruned, without changing what it computes.

    Global layer norms become the group-norm kernel, batch norms are folded, depthwise convolutions
    become sums of shifted copies, and blocks of known architectures run with fewer passes over
    memory. Every replacement is run beside its module on what the module is given, for the example
    and for a second length, and kept if it gives the same up to rounding and is not slower here;
    then the whole model is compared, and replacements are undone until it gives the same, too.

    Args:
        model: The model, or a wrapper around it.
        example_inputs: What it is called with, of the length that should be fast.
        inplace: Rewrite the model itself instead of a copy.
        record: Run the large parts of the model (encoder, masker, decoder) without Python, too: as
            TorchScript, recorded on the example and frozen. It saves most where layers are small.
            What Python decides from the length of an input is then decided once; each part is
            compared on four lengths (fewer if the model refuses some) and stays if it differs on
            one. The result stays on its device.
        clock: Seconds now, for tests; None takes no times and keeps whatever is right.

    Returns:
        The model in eval mode, for running only: it cannot be trained, pruned or saved (save the
        model itself, and optimise after loading). Its ``optimisation`` is the report.

    Raises:
        InputError: If the model does not run on the example, or is not of floating point.
    """
    plain = unwrapped(model)
    inputs = _inputs(plain, example_inputs)
    if record:
        inputs += _more_lengths(plain, inputs)
    target = (plain if inplace else copy.deepcopy(plain)).eval()
    with eagerly(), torch.inference_mode():
        expected = [_copied(target(*args, **kwargs)) for args, kwargs in inputs]
    rewrites: list[tuple[Rewrite, nn.Module, nn.Module]] = []
    with eagerly():
        for stage in STAGES:
            rewrites += _one_stage(target, _sites(target, stage), inputs, clock)
        if record:
            rewrites += _one_stage(target, _parts(target), inputs, clock)
        difference = _compare(target, inputs, expected)
        allowed = _END_TO_END * tolerance(_dtype(target))
        while difference > allowed:
            worst = _undo_worst(target, rewrites)
            if worst is None:
                break
            difference = _compare(target, inputs, expected)
    for parameter in target.parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.contiguous()
    for module in target.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    shapes = tuple(tuple(x.shape) for args, kw in inputs for x in _tensors((args, kw))[:1])
    target.optimisation = OptimisationReport(  # type: ignore[assignment]
        tuple(rewrite for rewrite, _, _ in rewrites), difference, shapes
    )
    return target


def _sites(model: nn.Module, stage: Stage) -> list[Site]:
    """What one stage offers."""
    sites = []
    for name, module in model.named_modules():
        found = candidates_of(module, stage) if name else []
        if found:
            alive = [(change, new.eval().requires_grad_(False)) for change, new in found]
            sites.append(Site(name, module, alive))
    return sites


def _parts(model: nn.Module) -> list[Site]:
    """The large parts of a model, each against its recording."""
    return [
        Site(name, part, [("recorded", Recorded(part).requires_grad_(False))])
        for name, part in recordable(model)
    ]


def _one_stage(
    model: nn.Module, sites: list[Site], inputs: list[Any], clock: Callable[[], float] | None
) -> list[tuple[Rewrite, nn.Module, nn.Module]]:
    """Try what is offered and put in place what is right and not slower."""
    if not sites:
        return []
    for index, (args, kwargs) in enumerate(inputs):
        timed = clock if index == 0 else None
        try_out(model, sites, lambda a=args, k=kwargs: model(*a, **k), timed)  # type: ignore[misc]
    done = [_decide(model, site, clock is not None) for site in sites]
    return done


def _decide(model: nn.Module, site: Site, timed: bool) -> tuple[Rewrite, nn.Module, nn.Module]:
    """Keep the fastest of the candidates that are right, if one is faster than the module."""
    dtype = _dtype(model)
    right = [i for i, d in enumerate(site.differences) if d <= tolerance(dtype)]
    best = min(right or range(len(site.candidates)), key=lambda i: site.seconds[i + 1])
    seconds, before = site.seconds[best + 1], site.seconds[0]
    reason = ""
    if not site.calls:
        reason = "not called"
    elif not right:
        reason = "differs"
    elif timed and seconds > _SLOWER * before:
        reason = "slower"
    change, new = site.candidates[best]
    if not reason and not _replace(model, site.module, new):
        reason = "inside another"
    rewrite = Rewrite(
        site.name,
        type(site.module).__name__,
        change,
        not reason,
        reason,
        site.differences[best],
        before / seconds if timed and seconds and site.calls else None,
    )
    return rewrite, site.module, new


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> bool:
    """Put one module where another is, everywhere; False if it is nowhere."""
    found = False
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new
                found = True
    return found


def _undo_worst(
    model: nn.Module, rewrites: list[tuple[Rewrite, nn.Module, nn.Module]]
) -> Rewrite | None:
    """Take back the replacement with the largest difference that is still in the model."""
    present = set(model.modules())
    held = [i for i, (r, _, new) in enumerate(rewrites) if r.kept and new in present]
    if not held:
        return None
    index = max(held, key=lambda i: rewrites[i][0].difference)
    rewrite, old, new = rewrites[index]
    _replace(model, new, old)
    changed = Rewrite(**{**vars(rewrite), "kept": False, "reason": "the model differs"})
    rewrites[index] = (changed, old, new)
    return changed


def _compare(model: nn.Module, inputs: list[Any], expected: list[Any]) -> float:
    """Largest difference over all inputs; infinity if the model cannot run any more."""
    worst = 0.0
    with torch.inference_mode():
        for (args, kwargs), y in zip(inputs, expected, strict=True):
            try:
                worst = max(worst, relative_difference(model(*args, **kwargs), y))
            except Exception:
                return float("inf")
    return worst


# -- inputs ---------------------------------------------------------------------------------------


def _inputs(model: nn.Module, example_inputs: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The example, and a batch of two of another length where the model takes it."""
    args, kwargs = call_arguments(example_inputs)
    if not _dtype(model).is_floating_point:
        raise InputError(f"{type(model).__name__} has no parameters of floating point to optimise")
    with eagerly(), eval_mode(model), torch.inference_mode():
        try:
            model(*args, **kwargs)
        except Exception as error:
            raise InputError(
                f"{type(model).__name__} cannot run on the example input ({type(error).__name__}: "
                f"{error}). Give what you call the model with."
            ) from error
        for batch in (2, 1):
            other = _other(args, batch), {k: _other(v, batch) for k, v in kwargs.items()}
            try:
                model(*other[0], **other[1])
            except Exception:  # a model for one length or batch only
                continue
            return [(args, kwargs), other]
    return [(args, kwargs)]


def _more_lengths(model: nn.Module, inputs: list[Any]) -> list[Any]:
    """A shorter and a longer input, where the model takes them."""
    args, kwargs = inputs[-1]
    shorter = _other(args, 1), {k: _other(v, 1) for k, v in kwargs.items()}
    args, kwargs = inputs[0]
    longer = _longer(args), {k: _longer(v) for k, v in kwargs.items()}
    found = []
    for one in (shorter, longer):
        with eagerly(), eval_mode(model), torch.inference_mode():
            try:
                model(*one[0], **one[1])
            except Exception:  # a model for some lengths only
                continue
        found.append(one)
    return found


def _longer(value: Any) -> Any:
    """An input and most of it again."""
    if isinstance(value, (tuple, list)):
        return type(value)(_longer(v) for v in value)
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return value
    return torch.cat([value, value[..., : value.shape[-1] * 3 // 4 + 1]], -1)


def _other(value: Any, batch: int) -> Any:
    """An input of another length: five eighths and an odd sample, ``batch`` of them."""
    if isinstance(value, (tuple, list)):
        return type(value)(_other(v, batch) for v in value)
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return value
    size = value.shape[-1] * 5 // 8 + 1
    parts = [value[:1, ..., :size], 0.5 * value[:1, ..., -size:]]
    return torch.cat(parts[:batch])


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, (tuple, list)) else []


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)):
        return type(value)(_copied(v) for v in value)
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return value


def _dtype(model: nn.Module) -> torch.dtype:
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.int64)
