"""Resources: what a model costs, as functions of its gates, so that a budget can bound them.

MACs and parameters follow from the gates alone. What has to be measured or predicted (latency,
memory) is a :class:`Resource` of its own, built when a budget first asks for it. The module that
knows how registers a builder: ``register_resource("latency", build)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..errors import BudgetError, InputError
from .cost import Cost, CostModel

if TYPE_CHECKING:
    from .gate_set import GateGroup, GateSet

__all__ = ["CostResource", "Resource", "build_resource", "register_resource"]


class Resource(ABC):
    """One cost of the pruned model, in one unit.

    Attributes:
        name: Keyword of ``Budget`` that bounds it.
        unit: Its unit in words, for messages: ``MACs``, ``parameters``, ``ms``, ``bytes``.
        tolerance: How far below a bound the final masks may stay, as a share of the bound.
        predicted: Whether :meth:`exact` is a prediction that :meth:`measured` has to confirm.
        dense: Cost of the dense model.
    """

    name: str
    unit: str
    tolerance: ClassVar[float] = 0.005
    predicted: ClassVar[bool] = False
    dense: float

    @abstractmethod
    def exact(self, keep: Tensor) -> float:
        """Cost with hard masks, the same on every call.

        Args:
            keep: True where a gate is open, shape (N,), bool, on the CPU.

        Returns:
            The cost of the pruned model, or its prediction where ``predicted`` is true; that of
            the dense model where all gates are open.
        """

    @abstractmethod
    def expected(self, probability: Tensor) -> Tensor:
        """Cost when gates are open with the given probabilities, for the search.

        Args:
            probability: Shape (N,), float.

        Returns:
            A 0-d tensor, differentiable, on the same device; ``dense`` where all are 1.
        """

    def exact_many(self, keeps: Tensor) -> Tensor:
        """:meth:`exact` of several masks at once, shape (K, N) to (K,), float64."""
        return torch.tensor([self.exact(keep) for keep in keeps], dtype=torch.float64)

    def steps(self, groups: Sequence[GateGroup]) -> dict[str, int]:
        """Widths that cost least for what they hold are multiples of this, by group name."""
        return {group.name: 1 for group in groups}

    def measure(self, keep: Tensor) -> float:
        """Cost of the physically pruned model; :meth:`exact` unless it is a prediction."""
        return self.exact(keep)

    def measured(self, keep: Tensor) -> float:
        """:meth:`measure`, once for the same masks: what was decided on is what is reported."""
        if not self.predicted:
            return self.measure(keep)
        if not hasattr(self, "_measured"):
            self._measured: dict[bytes, float] = {}
        key = bytes(keep.tolist())
        if key not in self._measured:
            self._measured[key] = self.measure(keep)
        return self._measured[key]


class CostResource(Resource):
    """MACs or parameters, of the model or of its separator: known exactly."""

    def __init__(self, model: CostModel, name: str, separator: bool = False) -> None:
        """Pick one figure of a cost model.

        Args:
            model: The cost model.
            name: ``macs`` or ``params``.
            separator: Whether it is of the separator alone.
        """
        self.name, self.unit = name, "MACs" if name == "macs" else "parameters"
        self._model, self._field = model, f"separator_{name}" if separator else name
        self._column = [field.name for field in fields(Cost)].index(self._field)
        self.dense = float(getattr(model.dense, self._field))

    def exact(self, keep: Tensor) -> float:
        """Cost with hard masks, exactly."""
        return float(getattr(self._model.exact(keep), self._field))

    def exact_many(self, keeps: Tensor) -> Tensor:
        """Costs with several hard masks, exactly."""
        return self._model.exact_many(keeps)[:, self._column].double()

    def expected(self, probability: Tensor) -> Tensor:
        """Cost when gates are open independently with the given probabilities."""
        total: Tensor = getattr(self._model.expected(probability), self._field)
        return total


Builder = Callable[["GateSet"], Resource]
_BUILDERS: dict[str, Builder] = {}
_OWN = {
    f"{prefix}{name}": (name, bool(prefix))
    for prefix in ("", "separator_")
    for name in ("macs", "params")
}


def register_resource(name: str, build: Builder) -> None:
    """Say how a resource is made from gates; it is made when a budget first asks for it.

    Args:
        name: Keyword of ``Budget``: ``latency``, ``memory``.
        build: Takes the gates, whose ``model`` is dense and whose ``example_inputs`` it runs on.

    Raises:
        InputError: If the name is taken.
    """
    if name in _BUILDERS or name in _OWN:
        raise InputError(f"a resource called {name!r} is registered already")
    _BUILDERS[name] = build


def build_resource(name: str, gates: GateSet) -> Resource:
    """Make the resource of a name for some gates.

    Raises:
        BudgetError: If nothing says how, or it would have to run a model that only a function can
            call.
    """
    if name in _OWN:
        return CostResource(gates.cost_model, *_OWN[name])
    if name not in _BUILDERS:
        known = ", ".join(sorted({*_OWN, *_BUILDERS}))
        raise BudgetError(
            f"a budget of {name} needs a model of it, and none is registered (there are: {known}). "
            f"Give one: gates.resources[{name!r}] = a sepprune_tp.gates.Resource, or "
            f"register_resource({name!r}, build)."
        )
    if gates.table.options["forward_fn"] is not None:
        raise BudgetError(
            f"{name} is measured by model(example), and these gates were made with forward_fn=. "
            "Bound macs or params, or make the gates on an example that the model can be called "
            f"with. (Or give a resource of your own: gates.resources[{name!r}] = ...)"
        )
    return _BUILDERS[name](gates)
