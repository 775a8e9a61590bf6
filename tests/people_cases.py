"""What a collection of people's networks is made of: cases by name, and pieces to build them from.

Each case is a network as somebody would write it, an example for it, and what is wanted of it:

- ``cut``: channels inside can be pruned, and the gated network is the pruned one;
- ``share``: of the parameters, at least that much can be pruned (with one channel left a group);
- ``safe``: exact where a group is offered, else protected with the operation and its place;
- ``refused``: an error of ours says what cannot be looked into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CASES", "Case", "Part", "around", "case", "frames", "images", "waves"]


@dataclass(frozen=True)
class Case:
    """A network and what is wanted of it.

    Attributes:
        build: Makes it.
        kind: What it stands for.
        want: ``cut``, ``safe`` or ``refused``.
        inputs: Shape of each input; integers below ``tokens`` where that is given.
        share: Of the parameters that can be pruned, at least.
        tokens: Number of words, for a network that reads words.
        refusal: What the error of a refused network says.
        fixed_batch: Whether it runs with one batch size only.
        partly: Whether some channels besides inputs and outputs may be protected all the same.
        options: Of the graph (``forward_fn``, ``output_transform``).
    """

    build: Callable[[], nn.Module]
    kind: str
    want: str
    inputs: tuple[tuple[int, ...], ...]
    share: float = 0.0
    tokens: int = 0
    refusal: str = ""
    fixed_batch: bool = False
    partly: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def example(self, batch: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs, the same for the same seed, with another batch size if it is given."""
        generator = torch.Generator().manual_seed(seed)
        found = []
        for shape in self.inputs:
            shape = shape if batch is None else (batch, *shape[1:])
            if self.tokens:
                found.append(torch.randint(0, self.tokens, shape, generator=generator))
            else:
                found.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        return tuple(found)


CASES: dict[str, Case] = {}


def case(
    kind: str, want: str = "cut", *inputs: tuple[int, ...], **more: Any
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Add a function that builds a network to the collection, under its own name."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert build.__name__ not in CASES, build.__name__
        CASES[build.__name__] = Case(build, kind, want, inputs or ((2, 1, 20),), **more)
        return build

    return add


class Part(nn.Module):
    """A function of a module and its inputs; layers, parameters, buffers and numbers by name."""

    def __init__(self, code: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.code = code
        for name, value in held.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.code(self, *args, **kwargs)


def waves(*middle: Any, width: int = 8, left: int | None = None) -> nn.Sequential:
    """(B, 1, 20) -> Conv1d -> middle, channels first -> Conv1d."""
    return around(nn.Conv1d(1, width, 3), middle, nn.Conv1d(left or width, 2, 3))


def images(*middle: Any, width: int = 8, left: int | None = None) -> nn.Sequential:
    """(B, 1, 8, 8) -> Conv2d -> middle, channels first -> Conv2d."""
    return around(nn.Conv2d(1, width, 3, padding=1), middle, nn.Conv2d(left or width, 2, 3))


def frames(*middle: Any, width: int = 8, left: int | None = None) -> nn.Sequential:
    """(B, N, 4) -> Linear -> middle, channels last -> Linear."""
    return around(nn.Linear(4, width), middle, nn.Linear(left or width, 3))


def around(first: nn.Module, middle: Any, last: nn.Module) -> nn.Sequential:
    """Layers in a row; a plain function becomes one."""
    made = [m if isinstance(m, nn.Module) else Part(_plain(m)) for m in middle]
    return nn.Sequential(first, *made, last)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *args: function(*args)


def gain(*shape: int) -> nn.Parameter:
    """A parameter between 0.5 and 1.5."""
    return nn.Parameter(torch.rand(*shape) + 0.5)


def weight(*shape: int) -> nn.Parameter:
    """A matrix or kernel."""
    return nn.Parameter(torch.randn(*shape) / 3)
