"""One row of the zoo: how to build a network, what to run it on, and which output counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.randomised import randomise

__all__ = ["ZooRow", "attribute", "last_layers", "no_layers", "noise", "tokens"]

Layers = Callable[[nn.Module], Sequence[nn.Module]]


def no_layers(model: nn.Module) -> list[nn.Module]:
    """No layer is spared."""
    return []


@dataclass(frozen=True)
class ZooRow:
    """A network of somebody else's, small and with random weights.

    Attributes:
        library: The package that it comes from.
        model: Its name there; unique together with the library.
        make: Builds it; imports its package when called.
        inputs: Makes the example: a tensor, a tuple of arguments, or a dict of keyword arguments.
        output: Picks the output of the task, as ``output_transform`` of the graph and of
            torch-pruning; None: the output as it is.
        classifier: The final layers, which torch-pruning is told to spare; our graph is told
            nothing.
        importable: Whether ``load_pruned`` builds the class by itself.
    """

    library: str
    model: str
    make: Callable[[], Any]
    inputs: Callable[[], Any]
    output: Callable[[Any], Any] | None = None
    classifier: Layers = no_layers
    importable: bool = False

    @property
    def name(self) -> str:
        """Unique name."""
        return f"{self.library} {self.model}"

    def build(self) -> nn.Module:
        """The network in eval mode, with random weights, biases, affines and statistics."""
        torch.manual_seed(0)
        model: nn.Module = self.make()
        return randomise(model.eval().requires_grad_(True), 0.1)

    def example(self) -> Any:
        """The same example each time, in torch's default precision."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return self.inputs()


def noise(*shape: int) -> Callable[[], Tensor]:
    """Normal noise of a shape."""
    return lambda: torch.randn(shape)


def tokens(**lengths: int) -> Callable[[], dict[str, Tensor]]:
    """Two sequences of random tokens for each keyword, below 64."""
    return lambda: {key: torch.randint(3, 64, (2, n)) for key, n in lengths.items()}


def attribute(*names: str) -> Callable[[Any], Any]:
    """Picks the first of these attributes that an output has."""

    def pick(output: Any) -> Any:
        found = [getattr(output, name, None) for name in names]
        return next(value for value in found if value is not None)

    return pick


def last_layers(*modules: nn.Module) -> list[nn.Module]:
    """The last linear or convolutional layer of each head, or of each head in a list."""
    found: list[nn.Module] = []
    for module in modules:
        heads = list(module) if isinstance(module, nn.ModuleList) else [module]
        for head in heads:
            layers = [m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
            found.extend(layers[-1:])
    return found
