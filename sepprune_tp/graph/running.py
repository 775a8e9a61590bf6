"""Run a model on its example for a trace, or say why it does not run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .._modes import eval_mode
from .._unwrap import eagerly, keep_random_state
from ..errors import GraphError, SepPruneError
from ..layers import LayerRule, rule_of
from .tracer import Tracer

__all__ = ["forward", "trace_shortest"]

_LENGTHS = (1000, 4000)
"""Samples of a waveform that are tried first, if the example is more than twice as long."""
Call = Callable[[Any], Any]
Custom = Mapping[nn.Module, LayerRule]
Shapes = set[tuple[nn.Module, tuple[int, ...]]]
"""For each layer the axes of its input, batch and channels aside, that have one element."""


def trace_shortest(
    model: nn.Module,
    example: Any,
    forward_fn: Callable[[nn.Module, Any], Any] | None,
    output_transform: Callable[[Any], Any] | None,
    custom: Custom | None = None,
) -> tuple[Tracer, Any]:
    """Trace on a short piece of a long example if that gives the same.

    Couplings do not depend on the length, unless an axis shrinks to one element: a short piece
    counts only if no layer sees such an axis that is longer on the whole example.

    Args:
        model: The model; its modes and torch's random state are left as they are.
        example: What it is called with.
        forward_fn: Calls the model, instead of ``model(example)``.
        output_transform: Applied to the outputs.
        custom: Rules of layers of this model that no rule is registered for.

    Returns:
        The finished trace, and the inputs that were traced.

    Raises:
        GraphError: If the model does not run on the example.
    """

    def call(inputs: Any) -> Any:
        return forward(model, inputs, forward_fn, output_transform)

    whole = cache(lambda: _collapsed_on(model, call, example))
    with eagerly(), keep_random_state(model):
        for length in _lengths(example):
            piece = _shortened(example, length)
            tracer = _trace_piece(model, call, piece, whole, custom)
            if tracer is not None:
                return tracer, piece
        try:
            return _traced(model, call, example, custom)[0], example
        except Exception as error:  # a model may raise anything
            if isinstance(error, SepPruneError):
                raise
            if _runs_plainly(model, call, example):
                raise GraphError(
                    f"{type(model).__name__} runs on the example, but its channels cannot be "
                    f"followed ({type(error).__name__}: {error}). Report this with the code of "
                    "the model: it is a limit of the graph, not of your input."
                ) from error
            raise GraphError(
                f"{type(model).__name__} did not run on the example input "
                f"{_describe(example)}: {error}. Give an input of the shape (and sample "
                "rate) that the model takes, for a separator usually a mixture of shape "
                "(batch, time), on the model's device."
            ) from error


def _trace_piece(
    model: nn.Module, call: Call, piece: Any, whole: Callable[[], Shapes], custom: Custom | None
) -> Tracer | None:
    """Trace a piece of the example, or None if the model does not run on it or it collapses.

    Args:
        model: The model.
        call: Runs it.
        piece: The first samples of the example.
        whole: What collapses on the whole example.
        custom: Rules of layers of this model.
    """
    try:
        tracer, collapsed = _traced(model, call, piece, custom)
        if not collapsed or collapsed == whole():
            return tracer
    except Exception:
        pass  # too short for its filters, or tied to the length: the whole example decides
    return None


def _runs_plainly(model: nn.Module, call: Call, inputs: Any) -> bool:
    try:
        with torch.no_grad(), eval_mode(model):
            call(inputs)
    except Exception:
        return False
    return True


def _traced(
    model: nn.Module, call: Call, inputs: Any, custom: Custom | None
) -> tuple[Tracer, Shapes]:
    tracer = Tracer(model, custom)
    with _collapsing(model) as collapsed:
        tracer.run(lambda: call(inputs), inputs)
    return tracer, collapsed


def _collapsed_on(model: nn.Module, call: Call, inputs: Any) -> Shapes:
    """What collapses in a plain forward pass."""
    with torch.no_grad(), eval_mode(model), _collapsing(model) as collapsed:
        call(inputs)
    return collapsed


@contextmanager
def _collapsing(model: nn.Module) -> Iterator[Shapes]:
    """Gather the axes of one element that layers see."""
    found: Shapes = set()
    with ExitStack() as stack:
        for module in model.modules():
            rule = rule_of(module)
            if rule is not None:

                def look(
                    module: nn.Module, args: Any, axis: Callable[..., int] = rule.axis
                ) -> None:
                    if args and isinstance(args[0], Tensor):
                        shape, channels = args[0].shape, axis(module, args[0])
                        kept = (d for d in range(1, len(shape)) if d != channels % len(shape))
                        if single := tuple(d for d in kept if shape[d] == 1):
                            found.add((module, single))

                stack.callback(module.register_forward_pre_hook(look).remove)
        yield found


def forward(
    model: nn.Module,
    example: Any,
    forward_fn: Callable[..., Any] | None = None,
    output_transform: Callable[[Any], Any] | None = None,
) -> Any:
    """Run a model on an example, as torch-pruning does."""
    output = _outputs(model, example, forward_fn)
    return output if output_transform is None else output_transform(output)


def _outputs(model: nn.Module, example: Any, forward_fn: Callable[..., Any] | None) -> Any:
    if forward_fn is not None:
        return forward_fn(model, example)
    if isinstance(example, dict):
        return model(**example)
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


def _waveform(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and 1 <= value.dim() <= 3


def _lengths(example: Any) -> list[int]:
    """Lengths to try before the whole example: none unless it holds long waveforms."""
    longest = max((v.size(-1) for v in tree_leaves(example) if _waveform(v)), default=0)
    return [length for length in _LENGTHS if longest > 2 * length]


def _shortened(example: Any, length: int) -> Any:
    """The example with its longest waveforms, of shape (..., T), cut to their first samples."""
    longest = max(v.size(-1) for v in tree_leaves(example) if _waveform(v))

    def cut(value: Any) -> Any:
        if _waveform(value) and value.size(-1) == longest:
            return value[..., :length].contiguous()
        return value

    return tree_map(cut, example)


def _describe(example: Any) -> str:
    if isinstance(example, Tensor):
        return f"of shape {tuple(example.shape)}"
    if isinstance(example, dict):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in example.items()) + "}"
    if isinstance(example, (tuple, list)):
        return "(" + ", ".join(_describe(v) for v in example) + ")"
    return repr(example)
