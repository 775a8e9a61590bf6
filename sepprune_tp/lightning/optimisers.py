"""Optimisers that go on with the parameters that a model has after it was pruned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["ParameterNames"]


class ParameterNames:
    """The parameters of a module before it changes, by name.

    Pruning puts new parameters into a model. An optimiser that somebody made beforehand, as every
    Asteroid recipe does, holds the old ones.
    """

    def __init__(self, module: nn.Module) -> None:
        """Remember them (and the parameters too, so that no new one gets the place of an old)."""
        self._old = dict(module.named_parameters())
        self._names = {id(parameter): name for name, parameter in self._old.items()}

    def renew(self, optimizer: torch.optim.Optimizer, module: nn.Module) -> bool:
        """Let an optimiser go on with the parameters of today; in place, as schedulers hold it.

        Learning rates and other settings of a group stay. What was gathered about gradients is
        dropped: it belongs to the old weights.

        Args:
            optimizer: Of some of the old parameters, or of new ones: then it stays as it is.
            module: The module that was given before.

        Returns:
            Whether the optimiser changed.
        """
        new = dict(module.named_parameters())
        groups = [self._renewed(group["params"], new) for group in optimizer.param_groups]
        pairs = list(zip(optimizer.param_groups, groups, strict=True))
        if all(_same(group["params"], parameters) for group, parameters in pairs):
            return False
        optimizer.state.clear()
        for group, parameters in pairs:
            group["params"][:] = parameters
        return True

    def _renewed(self, parameters: list[Any], new: dict[str, nn.Parameter]) -> list[Any]:
        """A group's parameters: those of the same names, and those that replace vanished ones."""
        names = [self._names.get(id(parameter)) for parameter in parameters]
        known = [name for name in names if name is not None]
        vanished = {name.rpartition(".")[0] for name in known if name not in new}
        added = [n for n in new if n not in self._old and n.rpartition(".")[0] in vanished]
        others = [p for p, name in zip(parameters, names, strict=True) if name is None]
        kept = [name for name in known if name in new] + added
        order = {name: place for place, name in enumerate(self._old)}
        if [order[name] for name in known] == sorted(order[name] for name in known):
            place = {name: number for number, name in enumerate(new)}
            kept.sort(key=place.__getitem__)  # as an optimiser that is made now would have them
        return [*(new[name] for name in kept), *others]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
