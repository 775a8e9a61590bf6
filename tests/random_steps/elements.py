"""Steps that work element by element, and that join tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import Form, Moved, Pick, Step, UnfitError, noise


class Activation(Step):
    def draw(self, pick: Pick, form: Form) -> None:
        self.how = pick.of(
            "relu, gelu, inplace, prelu, one prelu, softplus, clamp, dropout, hard, "
            "masked, where, abs, cube, maximum"
        )
        self.moved = Moved(pick, form, 1) if self.how == "prelu" and len(form.axes) > 1 else None
        if self.how in ("prelu", "one prelu"):
            if self.how == "prelu" and self.moved is None:
                raise UnfitError(form.axes)
            self.act: nn.Module = nn.PReLU(form.channels if self.how == "prelu" else 1)
        elif self.how == "hard":
            self.act = nn.Hardswish()
        else:
            self.act = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        if self.moved is not None:
            return self.moved.back(self.act(self.moved.there(x)))
        if self.how in ("one prelu", "hard"):
            return self.act(x)
        if self.how == "inplace":
            return self.act(x * 1.5)
        plain: dict[str, Any] = {
            "relu": torch.relu,
            "gelu": functional.gelu,
            "softplus": functional.softplus,
            "clamp": lambda x: x.clamp(-0.7, 0.9),
            "dropout": lambda x: functional.dropout(x, 0.2, self.training) * 2,
            "masked": lambda x: x.masked_fill(x < 0, 0.25),
            "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
            "abs": lambda x: (x.abs() + 1).log(),
            "cube": lambda x: x**3 / (1 + x.square()),
            "maximum": lambda x: torch.maximum(x, 0.1 * x) + 0.5,
        }
        return plain[self.how](x)


class InPlace(Step):
    """Changes a tensor, sometimes one that others read later."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.cloned = pick(True, False) or len(self.past) < 3
        self.how = pick.of("mul, add, zero, relu, positions, own, clamp, half, index")
        places = [a for a in form.axes if a not in "bc"]
        if self.how in ("zero", "positions", "index") and not places:
            raise UnfitError("no positions")
        self.axis = form.at(places[-1]) if places else 0
        self.at, self.half = form.at("c"), form.channels // 2
        self.gain = nn.Parameter(noise(form.channels, near=1))
        self.spread = tuple(-1 if a == "c" else 1 for a in form.axes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone() if self.cloned or 0 in x.stride() else x
        if self.how == "mul":
            x.mul_(self.gain.view(self.spread))
        elif self.how == "add":
            x += self.gain.view(self.spread)
        elif self.how == "zero":
            x.select(self.axis, 0).zero_()
        elif self.how == "relu":
            functional.relu(x, inplace=True)
        elif self.how == "positions":
            x.narrow(self.axis, 0, 1).copy_(x.narrow(self.axis, -1, 1) * 2)
        elif self.how == "own":
            x.add_(x.sigmoid(), alpha=0.5)
        elif self.how == "clamp":
            x.clamp_(min=-0.5)
        elif self.how == "half":
            x.narrow(self.at, 0, x.size(self.at) // 2).mul_(0.5)
        else:
            x.index_fill_(self.axis, torch.tensor([0]), 0.5)
        return x


class Cast(Step):
    """Of types, and copies."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.scale = nn.Parameter(noise(1, near=1))
        self.how = pick.of(
            "double, to, type_as, contiguous, clone, detach, device, complex, zeros, chunked"
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "double":
            return x.double() * self.scale
        if self.how == "to":
            return x.to(self.scale.dtype) * self.scale
        if self.how == "type_as":
            return x.type_as(self.scale) + 1
        if self.how == "contiguous":
            return x.contiguous().sin()
        if self.how == "clone":
            return x.clone(memory_format=torch.contiguous_format)
        if self.how == "detach":
            return x.detach() + x
        if self.how == "device":
            return x.to(device="cpu", dtype=torch.float64, copy=True)
        if self.how == "complex":
            y = torch.complex(x, x.tanh()) * 1j
            return y.real + y.abs()
        if self.how == "zeros":
            y = torch.zeros_like(x)
            y += x
            return y
        return torch.cat([torch.tanh(part) for part in x.chunk(2, 0)], 0)


class Constant(Step):
    """What is computed from a size."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.moved, self.c = Moved(pick, form, -1), form.channels
        self.how = pick.of(
            "scale, arange, sine, full, linspace, eye, share, ones, mask, number, numel, "
            "check, even"
        )
        if self.how == "even" and self.c % 2:
            raise UnfitError("odd")

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.computed(self.moved.there(x)))

    def computed(self, x: Tensor) -> Tensor:
        c = x.size(-1)
        if self.how == "scale":
            return x * c**-0.5
        if self.how == "arange":
            return x + torch.arange(c).to(x) / 10
        if self.how == "sine":
            return x + torch.sin(torch.arange(x.shape[-1], dtype=x.dtype) / x.shape[-1])
        if self.how == "full":
            return x + torch.full((c,), 0.5, dtype=x.dtype)
        if self.how == "linspace":
            return x * torch.linspace(0.5, 1, c, dtype=x.dtype)
        if self.how == "eye":
            return x @ torch.eye(c, dtype=x.dtype)
        if self.how == "share":
            return x / self.c
        if self.how == "ones":
            return x * x.new_ones(x.shape) + torch.zeros(c, dtype=x.dtype)
        if self.how == "mask":
            return x * (torch.arange(c) % 2).to(x)
        if self.how == "number":
            return x[..., : self.c] * 1.5
        if self.how == "numel":
            return x * (x.numel() / x[..., 0].numel() / 8)
        if self.how == "check":
            if c != self.c:
                raise ValueError(f"{self.c} channels, please")
            return x + 1
        if c % 2:
            raise ValueError("an even number of channels, please")
        return x.sigmoid()


class Add(Step):
    """With an earlier tensor of the same form, maybe in another order of axes."""

    def draw(self, pick: Pick, form: Form) -> None:
        other = self.earlier(
            pick, lambda f: sorted(f.axes) == sorted(form.axes) and f.ordered(form.axes) == form
        )
        self.reads = (other,)
        self.order = tuple(self.past[other].at(a) for a in form.axes)
        self.how = pick.of(
            "add, sub, mul, alpha, maximum, lerp, stack, inplace, where, mean, loop, expand, max"
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.order != tuple(range(x.dim())):
            y = y.permute(self.order)
        if self.how == "sub":
            return x - y
        if self.how == "mul":
            return x * y.sigmoid()
        if self.how == "alpha":
            return torch.add(x, y, alpha=0.3)
        if self.how == "maximum":
            return torch.maximum(x, y)
        if self.how == "lerp":
            return torch.lerp(x, y, 0.3)
        if self.how == "stack":
            return torch.stack([x, y], -1).sum(-1)
        if self.how == "inplace":
            x = x.clone()
            x += y
            return x
        if self.how == "where":
            return torch.where(y > 0, x, y)
        if self.how == "mean":
            return torch.stack((x, y)).mean(0)
        if self.how == "loop":
            return sum([x, y])  # type: ignore[return-value]
        if self.how == "expand":
            return x.expand_as(y) + y
        if self.how == "max":
            return torch.stack([x, y]).max(0)[0]
        return x + y


class Broadcast(Step):
    """An earlier tensor that lacks some axes, or the means of one along positions."""

    def draw(self, pick: Pick, form: Form) -> None:
        def fits(other: Form) -> bool:
            axes = "".join(a for a in form.axes if a in other.axes)
            return "c" in axes and axes == other.axes and other == form.ordered(axes)

        other = self.earlier(pick, fits)
        self.reads = (other,)
        have = self.past[other].axes
        self.dims = tuple(form.at(a) for a in form.positions) if have == form.axes else ()
        self.spread = tuple(slice(None) if a in have else None for a in form.axes)
        self.how = pick("mul", "add", "expand")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = y.mean(self.dims, keepdim=True) if self.dims else y[self.spread]
        if self.how == "expand":
            return x + y.expand(x.shape)
        return x * y.tanh() if self.how == "mul" else x + y


class Cat(Step):
    """With an earlier tensor along the channels or along positions, or with itself."""

    def draw(self, pick: Pick, form: Form) -> None:
        axis = pick("c", *[a for a in form.axes if a not in "bc"])
        self.axis = form.at(axis)
        self.how = pick("earlier", "itself", "empty", "zeros", "three")
        size = form.size(axis)
        if self.how == "earlier":
            fits = [n for n, f in enumerate(self.past[:-1])
                    if f.axes == form.axes and f.without(axis) == form.without(axis)] \
                if len(form.axes) > 1 else []  # fmt: skip
            other = pick(*reversed(fits))
            self.reads, size = (other,), size + self.past[other].size(axis)
        elif self.how != "empty":
            size *= {"itself": 2, "three": 3}.get(self.how, 1)
            size += 2 if self.how == "zeros" else 0
        self.turned = pick(False, True)
        self.form = form.resized(**{axis: size})

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        if self.how == "earlier":
            parts = [x, *others]
        elif self.how == "itself":
            parts = [x, -x.relu()]
        elif self.how == "three":
            parts = [x, x.sin(), x]
        elif self.how == "empty":
            parts = [x.narrow(self.axis, 0, 0), x.sin()]
        else:
            shape = list(x.shape)
            shape[self.axis] = 2
            parts = [x, x.new_zeros(shape)]
        return torch.cat(parts[::-1] if self.turned else parts, self.axis)


class Again(Step):
    """An earlier step, run once more."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.number = self.earlier(pick, lambda earlier: earlier == form)
        self.form = self.past[self.number + 1]  # step n made tensor n + 1 of tensor n
