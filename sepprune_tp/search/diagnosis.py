"""Name the channel group where a search stopped being finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SearchError
from ..gates import GateSet

__all__ = ["blame", "check_gradient"]


def check_gradient(gates: GateSet, gradient: Tensor, step: int) -> None:
    """Stop on a gradient that is not finite.

    Raises:
        SearchError: With the group of the first such gate.
    """
    if not bool(torch.isfinite(gradient).all()):
        index = int((~torch.isfinite(gradient)).nonzero()[0])
        name = gates.group_of(index).name
        raise SearchError(
            f"the gradient of the gates of group '{name}' is not finite at step {step}. Lower lr, "
            "search in float32, or look for silent sources in the batches."
        )


def blame(gates: GateSet, mixture: Tensor, step: int) -> str:
    """Say which gated layer first gives a value that is not finite."""
    found: list[str] = []
    names = {module: name for name, module in gates.model.named_modules()}

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        if not found and not bool(torch.isfinite(tensor).all()):
            found.append(names[module])

    hooks = [m.register_forward_hook(watch) for m in gates.gated_modules()]
    try:
        with torch.no_grad():
            gates.model(mixture)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        where = "no gated layer gives one, so it arises in the loss: is a source silent?"
    else:
        group = gates.group_with(found[0])
        where = f"it first appears in '{found[0]}', of group '{group}'"
    return (
        f"the loss is not finite at step {step}; {where}. Check the weights of that layer, or "
        "search in float32 with a smaller lr."
    )
