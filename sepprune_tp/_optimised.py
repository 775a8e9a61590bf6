"""The mark of modules that only run: what saving refuses."""

from __future__ import annotations

from torch import nn

__all__ = ["ForRunning", "rewritten_in"]

_INT8 = "torch.ao.nn.quantized"


class ForRunning(nn.Module):
    """Base class of what ``optimize_for_inference`` puts in the place of a module.

    It computes the same in eval mode, has no gradient, and cannot be trained, pruned or saved.
    """


def rewritten_in(model: nn.Module) -> list[str]:
    """Names of the modules of a model that were rewritten for running, or have int8 weights."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, ForRunning) or type(module).__module__.startswith(_INT8)
    ]
