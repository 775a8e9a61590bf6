"""``Budget``: how much of a model may stay."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BudgetError
from ..gates import GateSet
from .limits import Limit, Limits
from .quantity import parse

__all__ = ["RESOURCES", "Budget"]

RESOURCES = ("macs", "params", "latency", "memory")
_OF_PARTS = ("macs", "params")  # what can be told apart by part of the model


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the cost of the pruned model, one or several at once.

    Each is a share of the dense model in (0, 1], a number above 1 (of MACs, parameters,
    milliseconds or bytes), or a string: a percentage (``"50%"``) or a number with a unit
    (``"1.2G"``, ``"800k"``, ``"15ms"``, ``"12MB"``, ``"12MiB"``).

    Example:
        >>> Budget(macs=0.5).macs
        0.5
        >>> Budget(params="800k", memory="12MB").bounded
        ('params', 'memory')

    Attributes:
        macs: Multiply-accumulates on the example input of the gates.
        params: Parameters.
        latency: Time of one forward pass on the example input, on this machine.
        memory: Peak of what one forward pass on the example input holds: weights, buffers and
            live activations.
        of: What MACs and parameters (and shares of them) are of: the whole ``"model"`` or the
            ``"separator"``.
    """

    macs: float | str | None = None
    params: float | str | None = None
    latency: float | str | None = None
    memory: float | str | None = None
    of: str = "model"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BudgetError: If none is given, or one cannot be read.
        """
        if self.of not in ("model", "separator"):
            raise BudgetError(f"of={self.of!r}: a budget is of='model' or of='separator'")
        if not self.bounded:
            raise BudgetError(
                "an empty budget bounds nothing: give macs=, params=, latency= or memory=, e.g. "
                "macs=0.5"
            )
        for name in self.bounded:
            parse(name, getattr(self, name))
            if self.of != "model" and name not in _OF_PARTS:
                raise BudgetError(
                    f"{name}={getattr(self, name)!r} with of={self.of!r}: {name} is of the whole "
                    "model; leave of= out, or bound macs= and params= of the separator"
                )

    @property
    def bounded(self) -> tuple[str, ...]:
        """The resources that are bounded."""
        return tuple(name for name in RESOURCES if getattr(self, name) is not None)

    def limits(self, gates: GateSet) -> Limits:
        """The bounds as numbers for one dense model.

        Args:
            gates: Gates of the model, for its dense costs.

        Raises:
            BudgetError: If a resource is bounded that nothing can predict, or that the model (or
                its separator) has nothing of.
        """
        prefix = "separator_" if self.of == "separator" else ""
        entries = []
        for name in self.bounded:
            resource = gates.resource(prefix + name)
            if not resource.dense > 0:
                raise BudgetError(_nothing_of(name, self.of, gates))
            asked = parse(name, getattr(self, name))
            entries.append(Limit(resource, asked.bound(resource.dense), asked))
        return Limits(tuple(entries), self.of)


def _nothing_of(name: str, of: str, gates: GateSet) -> str:
    kind = type(gates.model).__name__
    if of == "separator":
        return (
            f"of='separator': this {kind} has no separator that is known by its name (masker, "
            f"separator...), its {name} are 0. Leave of= out to bound the whole model"
        )
    return f"{name}: this {kind} has no {name} on the example, so there is nothing to bound"
