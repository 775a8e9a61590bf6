"""What steps are made of: forms of tensors, choices, and a registry.

A step is drawn from a few small numbers and the form of the tensor that it gets, so that any list
of numbers is a network, and a shorter list with smaller numbers is a simpler one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

LARGEST = 40
"""Channels of a tensor at most, and positions along an axis."""
WIDTHS = (8, 6, 4, 12, 5)


class UnfitError(Exception):
    """A step that cannot be made for a tensor of this form."""


@dataclass(frozen=True)
class Form:
    """The axes of a tensor: a letter each, and their sizes.

    ``b`` is the batch, ``c`` the channels, ``g`` groups that were split from them; every other
    letter counts positions.
    """

    axes: str
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.axes)) != len(self.axes) or len(self.axes) > 5 or not self.axes:
            raise UnfitError(self.axes)
        if max(self.sizes) > LARGEST or min(self.sizes) < 1:
            raise UnfitError(str(self.sizes))

    def __deepcopy__(self, memo: object) -> Form:
        return self

    def size(self, axis: str) -> int:
        return self.sizes[self.at(axis)]

    def at(self, axis: str) -> int:
        return self.axes.index(axis)

    @property
    def channels(self) -> int:
        return self.size("c")

    @property
    def positions(self) -> str:
        """Letters of the axes that count positions."""
        return "".join(a for a in self.axes if a not in "bc")

    def resized(self, **sizes: int) -> Form:
        """Some axes with other sizes."""
        return Form(self.axes, tuple(sizes.get(a, s) for a, s in zip(self.axes, self.sizes)))  # noqa: B905

    def ordered(self, axes: str) -> Form:
        """Some of the axes in another order."""
        return Form(axes, tuple(self.size(a) for a in axes))

    def without(self, axes: str) -> Form:
        return self.ordered("".join(a for a in self.axes if a not in axes))


class Pick:
    """Makes choices by numbers; the first option where there are none left."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._left = list(numbers)

    def __call__(self, *options: T) -> T:
        if not options:
            raise UnfitError("nothing to choose from")
        number = self._left.pop(0) if self._left else 0
        return options[number % len(options)]

    def of(self, names: str) -> str:
        """One of some names."""
        return self(*names.split(", "))

    def divisor(self, number: int, least: int = 2) -> int:
        """A divisor of a number, not the number itself."""
        return self(*[d for d in range(least, number) if number % d == 0])


class Step(nn.Module):
    """A part of a network.

    A subclass makes its layers in ``draw`` for a tensor of the form ``self.form``, sets
    ``self.form`` to the form of its output, and raises :class:`UnfitError` where it cannot.

    Attributes:
        reads: Numbers of earlier tensors that ``forward`` gets besides the last one.
    """

    kinds: ClassVar[dict[str, type[Step]]] = {}

    def __init_subclass__(cls) -> None:
        Step.kinds[cls.__name__] = cls

    def __init__(self, numbers: Sequence[int], past: Sequence[Form]) -> None:
        super().__init__()
        self.reads: tuple[int, ...] = ()
        self.past = past
        self.form = past[-1]
        if "c" not in self.form.axes:
            raise UnfitError("no channels")
        self.draw(Pick(numbers), self.form)
        if "c" not in self.form.axes:
            raise UnfitError("no channels")
        del self.past

    def draw(self, pick: Pick, form: Form) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        raise NotImplementedError

    def earlier(self, pick: Pick, fits: Callable[[Form], Any]) -> int:
        """Number of an earlier tensor of a form that fits."""
        return pick(*[n for n, form in reversed(list(enumerate(self.past[:-1]))) if fits(form)])


class Moved(nn.Module):
    """Brings the channels to the place where a function wants them, and back again."""

    def __init__(self, pick: Pick, form: Form, place: int) -> None:
        super().__init__()
        self.at, self.place = form.at("c"), place % len(form.axes)
        self.how = pick("movedim", "transpose", "permute") if self.at != self.place else "stay"
        order = list(range(len(form.axes)))
        order.insert(self.place, order.pop(self.at))
        self.order = tuple(order)

    def there(self, x: Tensor) -> Tensor:
        if self.how == "stay":
            return x
        if self.how == "movedim":
            return x.movedim(self.at, self.place)
        if self.how == "transpose":
            return x.transpose(self.at, self.place)
        return x.permute(self.order).contiguous()

    def back(self, x: Tensor) -> Tensor:
        if self.how == "stay":
            return x
        if self.how == "movedim":
            return x.movedim(self.place, self.at)
        if self.how == "transpose":
            return x.transpose(self.at, self.place)
        return x.permute([self.order.index(n) for n in range(len(self.order))])


def channels_first(form: Form) -> int:
    """Where a convolution wants the channels."""
    return 1 if "b" in form.axes else 0


def noise(*shape: int, near: float = 0.0) -> Tensor:
    """Random numbers around one value."""
    return near + 0.3 * torch.randn(*shape)


def held(pick: Pick, tensor: Tensor) -> Tensor:
    """A parameter, or a tensor for a buffer."""
    return pick(nn.Parameter, lambda t: t)(tensor)


def hold(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a parameter or a buffer."""
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def sequence(form: Form) -> None:
    """Refuse all but sequences with a batch."""
    if form.axes not in ("btc", "bct"):
        raise UnfitError(form.axes)


def moments(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """A norm by hand that several steps call."""
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + 1e-3).sqrt()
