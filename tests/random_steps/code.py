"""Steps about how code is written: numbers, states, tensors to fill, generated code."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from .forms import WIDTHS, Form, Moved, Pick, Step, UnfitError, noise


class Numbers(Step):
    """A width that code keeps as a number, in an attribute or deeper."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.c = form.channels
        self.layer, self.moved = nn.Linear(self.c, self.c), Moved(pick, form, -1)
        self.how = pick.of(
            "view, shape, heads, cat, expand, pad, config, split, sum, compare, zeros, share, "
            "nested, product"
        )
        self.shape, self.config = (-1, self.c), SimpleNamespace(width=self.c)
        self.sizes = [self.c - 1, 1]
        self.heads = 2 if self.c % 2 == 0 else 1
        self.width = self.c // self.heads
        self.inner = nn.Sequential(Narrowed(self.c), nn.Tanh())
        self.bias = nn.Parameter(noise(self.c))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        return self.moved.back(self.made(x, self.layer(x)))

    def made(self, x: Tensor, y: Tensor) -> Tensor:
        if self.how == "view":
            return y.reshape(-1, self.c).tanh().view(x.shape)
        if self.how == "shape":
            return y.reshape(self.shape).add(self.bias).view(y.shape)
        if self.how == "heads":
            return y.reshape(*y.shape[:-1], self.heads, self.width).softmax(-2).reshape(y.shape)
        if self.how == "cat":
            return torch.cat([y, x], -1)[..., : self.c]
        if self.how == "expand":
            return y + self.bias.expand(*x.shape[:-1], self.c)
        if self.how == "pad":
            return functional.pad(y, (0, self.c - y.size(-1))) * x.sigmoid()
        if self.how == "config":
            return y.reshape(-1, self.config.width).view(y.shape)
        if self.how == "split":
            a, b = y.split(self.sizes, -1)
            return torch.cat([a.tanh(), b], -1)
        if self.how == "sum":
            return y - y.sum(-1, keepdim=True) / self.c
        if self.how == "compare":
            return y * 2 if y.size(-1) == self.c else y * 3
        if self.how == "zeros":
            return torch.zeros(self.c, dtype=y.dtype) + y
        if self.how == "share":
            return y * (y.size(-1) / self.c)
        if self.how == "nested":
            return self.inner(y)
        return y.reshape(-1, self.heads * self.width).view(*x.shape[:-1], self.width * self.heads)


class Narrowed(nn.Module):
    """Keeps a width of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.width] * 0.5


class Stateful(Step):
    """Keeps something from one call to the next."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.layer, self.moved = nn.Linear(form.channels, 6), Moved(pick, form, -1)
        self.how = pick.of("count, last, shape, table, mask, first")
        self.seen: object = None
        self.count = 0
        self.form = form.resized(c=6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.moved.there(x))
        if self.how == "count":
            self.count += 1
        elif self.how == "last":
            self.seen = y.detach()
        elif self.how == "shape":
            self.seen = x.shape
        elif self.how == "table":  # a table of the width, made when it is needed
            if not isinstance(self.seen, Tensor) or self.seen.size(-1) != y.size(-1):
                self.seen = torch.arange(y.size(-1), dtype=y.dtype).sin()
            y = y + self.seen
        elif self.how == "mask":
            if not isinstance(self.seen, Tensor) or self.seen.shape != y.shape[:-1]:
                self.seen = torch.ones(y.shape[:-1], dtype=torch.bool)
            y = y * self.seen.unsqueeze(-1)
        elif self.seen is None:
            self.seen = True
        return self.moved.back(y.relu())


class Noise(Step):
    """Random numbers, the same in each run of one seed."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.moved = Moved(pick, form, -1)
        self.how = pick.of("positions, one, like, dropout, choice, channels")

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "positions":
            y = x + torch.rand(*x.shape[:-1], 1, dtype=x.dtype)
        elif self.how == "one":
            y = x * torch.rand(1, dtype=x.dtype)
        elif self.how == "like":
            y = x + 0.1 * torch.randn_like(x)
        elif self.how == "dropout":
            y = functional.dropout(x, 0.3, training=True)
        elif self.how == "choice":
            y = x * 2 if torch.rand(1).item() > 0.5 else x * 3
        else:
            y = x * torch.rand(x.size(-1), dtype=x.dtype)
        return self.moved.back(y)


class Filled(Step):
    """An output that is made empty and filled piece by piece."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes not in ("btc", "bct"):
            raise UnfitError(form.axes)
        self.moved, self.c = Moved(pick, form, -1), form.channels
        self.one, self.two = nn.Linear(self.c, 6), nn.Linear(self.c, 4)
        self.how = pick.of("parts, steps, like, halves, number, list, masked, copy, add")
        wide = {"parts": 10, "number": 10, "steps": 6, "list": 10}.get(self.how, self.c)
        if self.how in ("like", "masked", "copy", "add"):
            self.one = nn.Linear(self.c, self.c)
        if self.how == "halves" and self.c % 2:
            raise UnfitError("odd")
        self.wide, self.form = wide, form.resized(c=wide)

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.made(self.moved.there(x)))

    def made(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        if self.how in ("parts", "number"):
            one, two = self.one(x), self.two(x)
            wide = self.wide if self.how == "number" else one.size(-1) + two.size(-1)
            y = x.new_zeros(b, t, wide)
            y[..., : one.size(-1)] = one
            y[..., one.size(-1) :] = two
            return y
        if self.how == "list":
            made: list[Tensor] = []
            for layer in (self.one, self.two):
                made.append(layer(x))
            return torch.cat(made, dim=2)
        if self.how == "steps":
            y = torch.empty(b, t, self.one.out_features, dtype=x.dtype)
            for n in range(t):
                y[:, n] = self.one(x[:, n])
            return y
        if self.how == "halves":
            y = torch.empty_like(x)
            y[..., : c // 2] = x[..., c // 2 :]
            y[..., c // 2 :] = x[..., : c // 2].tanh()
            return y
        if self.how == "masked":
            y = self.one(x)
            y[x < 0] = 0.1
            return y
        if self.how == "copy":
            y = torch.zeros_like(x)
            y.copy_(self.one(x))
            return y
        if self.how == "add":
            y = torch.zeros(b, t + 1, c, dtype=x.dtype)
            y[:, 1:] += self.one(x)
            y[:, :-1] += x
            return y[:, :t]
        y = torch.zeros_like(x)
        y[:] = self.one(x)
        return y


class Square(torch.autograd.Function):
    """An operation with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.square().clamp(max=2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Wrapped(Step):
    """A layer that runs inside something else."""

    def draw(self, pick: Pick, form: Form) -> None:
        c, self.moved = form.channels, Moved(pick, form, -1)
        self.layer = nn.Linear(c, pick(*WIDTHS))
        self.how = pick.of("checkpoint, function, hook, pre hook, partial, guards, dict")
        if self.how == "hook":
            self.layer.register_forward_hook(lambda module, args, y: y * 2)
        elif self.how == "pre hook":
            self.layer.register_forward_pre_hook(lambda module, args: (args[0].tanh(),))
        self.more = nn.ModuleDict({"act": nn.GELU(), "norm": nn.LayerNorm(self.layer.out_features)})
        self.form = form.resized(c=self.layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "checkpoint":
            y = checkpoint(self.layer, x, use_reentrant=False)
        elif self.how == "function":
            y = Square.apply(self.layer(x))
        elif self.how == "partial":
            y = self.layer(input=x)
        elif self.how == "guards":
            y = self.layer(x)
            if torch.isnan(y).any() or y.abs().max().item() > 1e6 or y.shape[:-1] != x.shape[:-1]:
                raise ValueError("not a number")
        elif self.how == "dict":
            y = self.more["norm"](self.more["act"](self.layer(x)))
        else:
            y = self.layer(x)
        return self.moved.back(y)


class Escape(Step):
    """Values leave the tensor, and come back as another."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.how = pick.of(
            "numpy, list, data, tensor, new tensor, deepcopy, file, item, storage, buffer, "
            "attribute"
        )
        self.layer, self.moved = nn.Linear(form.channels, 5), Moved(pick, form, -1)
        self.register_buffer("kept", torch.zeros(1))
        self.form = form.resized(c=5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.escaped(x.detach()) + x * 0.5
        return self.moved.back(self.layer(self.moved.there(y)))

    def escaped(self, x: Tensor) -> Tensor:
        if self.how == "numpy":
            return torch.from_numpy(x.numpy() * 2)
        if self.how == "list":
            return torch.tensor(x.tolist(), dtype=x.dtype)
        if self.how == "data":
            return x.data * 2
        if self.how == "tensor":
            return torch.as_tensor(x).clone()
        if self.how == "new tensor":
            return x.new_tensor(x.tolist())
        if self.how == "deepcopy":
            return copy.deepcopy(x)
        if self.how == "file":
            file = io.BytesIO()
            torch.save(x, file)
            file.seek(0)
            return torch.load(file)
        if self.how == "item":
            return x * float(x.mean()) + x.flatten()[0].item()
        if self.how == "storage":
            return (
                torch.tensor(x.contiguous().untyped_storage(), dtype=torch.uint8)
                .view(x.dtype)
                .view(x.shape)
                if x.is_contiguous() and not x.storage_offset()
                else x
            )
        if self.how == "buffer":
            self.kept = x.mean(-1)
            return x * self.kept.unsqueeze(-1)
        self.found = x * 2
        return self.found


class ByHand(nn.Module):
    """A norm that torch.fx can trace."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(noise(width, near=1))
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return (y - y.mean(-1, keepdim=True)) * self.gain


class Compiled(Step):
    """Code that something else wrote, or a layer that something else changed."""

    def draw(self, pick: Pick, form: Form) -> None:
        c, how = form.channels, pick.of("fx, script, trace, pruned, functional, stateless, swapped")
        self.how, self.moved = how, Moved(pick, form, -1)
        layer: Any = ByHand(c) if how in ("fx", "functional", "stateless") else nn.Linear(c, 6)
        if how == "fx":
            layer = torch.fx.symbolic_trace(layer)
        elif how == "script":
            layer = torch.jit.script(layer)
        elif how == "trace":
            layer = torch.jit.trace(layer, torch.zeros(1, c))
        elif how == "pruned":
            prune.random_unstructured(layer, "weight", 0.3)
        self.layer = layer
        self.more = nn.Parameter(noise(c))
        width = 6 if isinstance(layer, nn.Linear) or how in ("script", "trace") else c
        self.form = form.resized(c=width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "functional":
            y = torch.func.functional_call(self.layer, {"gain": self.more}, (x,))
        elif self.how == "stateless":
            state = {name: p * 0.5 for name, p in self.layer.named_parameters()}
            y = torch.func.functional_call(self.layer, state, (x,))
        elif self.how == "swapped":
            y = functional.linear(x, *[p.sin() for p in self.layer.parameters()])
        else:
            y = self.layer(x)
        return self.moved.back(y)
