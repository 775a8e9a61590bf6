"""Run a model on its example for a trace, or say why it does not run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import GraphError
from ..layers import LayerRule
from .tracer import Tracer

__all__ = ["forward", "trace_shortest"]

_SHORT = 2000  # samples of a waveform that are traced when the example is longer
_CALL_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
    IndexError,
    AttributeError,
)


def trace_shortest(
    model: nn.Module,
    example: Any,
    forward_fn: Callable[[nn.Module, Any], Any] | None,
    output_transform: Callable[[Any], Any] | None,
    custom: Mapping[nn.Module, LayerRule] | None = None,
) -> tuple[Tracer, Any]:
    """Trace on a short piece of a long example if the model takes it: couplings are the same.

    Returns:
        The tracer, and the inputs that were traced.
    """
    for inputs, last in ((_shortened(example), False), (example, True)):
        tracer = Tracer(model, custom)

        def call(inputs: Any = inputs) -> Any:
            return forward(model, inputs, forward_fn, output_transform)

        try:
            if inputs is not None:
                tracer.run(call, inputs)
                return tracer, inputs
        except _CALL_ERRORS as error:
            if last:
                raise GraphError(
                    f"{type(model).__name__} did not run on the example input "
                    f"{_describe(example)}: {error}. Give an input of the shape (and sample "
                    "rate) that the model takes, for a separator usually a mixture of shape "
                    "(batch, time)."
                ) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


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


def _shortened(example: Any) -> Any:
    """The example cut to its first samples if it is one long waveform tensor, else None."""
    if not isinstance(example, Tensor) or not example.is_floating_point() or example.dim() > 3:
        return None
    return example[..., :_SHORT].contiguous() if example.size(-1) > 2 * _SHORT else None


def _describe(example: Any) -> str:
    if isinstance(example, Tensor):
        return f"of shape {tuple(example.shape)}"
    if isinstance(example, dict):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in example.items()) + "}"
    if isinstance(example, (tuple, list)):
        return "(" + ", ".join(_describe(v) for v in example) + ")"
    return repr(example)
