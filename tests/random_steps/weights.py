"""Steps with bare tensors, and with weights that are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from .forms import WIDTHS, Form, Moved, Pick, Step, UnfitError, channels_first, held, hold, noise


class WrappedConv(nn.Conv1d):
    """Does something before and after."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.dim() > 1 else x[None]).tanh()


class StandardConv(nn.Conv1d):
    """Weight-standardised."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2), keepdim=True)) / (w.std((1, 2), keepdim=True) + 1e-2)
        return self._conv_forward(x, w, self.bias)


class Gain(Step):
    """A bare tensor that broadcasts along the channels, or a table."""

    def draw(self, pick: Pick, form: Form) -> None:
        size = dict(zip(form.axes, form.sizes))  # noqa: B905
        kind = pick("gain", "table", "long table", "full", "flat", "scalar")
        shape = [1] * len(form.axes)
        shape[form.at("c")] = form.channels
        positions = [a for a in form.axes if a not in "bc"]
        self.view, self.cut = None, None
        if kind in ("table", "long table"):
            if not positions:
                raise UnfitError("no positions")
            axis = form.at(positions[-1])
            shape[axis] = size[positions[-1]] + (3 if kind == "long table" else 0)
            self.cut = axis if kind == "long table" else None
        elif kind == "full":
            shape = [1 if a == "b" else size[a] for a in form.axes]
        elif kind == "scalar":
            shape = [1]
        elif kind == "flat":
            self.view = tuple(-1 if a == "c" else 1 for a in form.axes)
            shape = [form.channels]
        first = (
            pick(0, next(n for n, s in enumerate([*shape, 2]) if s > 1)) if kind != "scalar" else 0
        )
        hold(self, "gain", held(pick, noise(*shape[first:], near=1)))
        if self.cut is not None:
            self.cut -= first
        self.how = pick.of("mul, add, divide, one more, exp, two, out, clone, prelu")

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain
        if self.cut is not None:
            gain = gain.narrow(self.cut, 0, gain.size(self.cut) - 3)
        if self.view is not None:
            gain = gain.view(self.view)
        if self.how == "add":
            return x + gain
        if self.how == "divide":
            return x / (gain.abs() + 0.5)
        if self.how == "one more":
            return torch.addcmul(x, x, gain)
        if self.how == "exp":
            return x * gain.exp()
        if self.how == "two":
            return x * gain.sigmoid() + gain
        if self.how == "out":
            return torch.mul(gain, x).sub(gain, alpha=0.5)
        if self.how == "clone":
            return x + gain.clone().detach()
        if self.how == "prelu":
            return torch.where(x > 0, x, x * gain)
        return x * gain


class BareWeight(Step):
    """A product with a bare tensor, in one of the ways to write it."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.how = pick.of(
            "linear, matmul, einsum, addmm, conv, left, tensordot, batched, low rank, masked, sum"
        )
        c, width = form.channels, pick(8, 6, 4)
        self.width = width
        shape = (
            (width, c)
            if self.how in ("linear", "conv", "left", "low rank", "masked")
            else (c, width)
        )
        hold(self, "weight", held(pick, noise(*shape)))
        self.bias = pick(None, nn.Parameter(noise(width)))
        if self.how == "left":
            if len(form.axes) < 2:
                raise UnfitError("no positions")
            self.moved = Moved(pick, form, -2)
        elif self.how == "conv":
            if form.axes not in ("bct", "btc"):
                raise UnfitError(form.axes)
            self.moved = Moved(pick, form, 1)
        else:
            self.moved = Moved(pick, form, -1)
        if self.how == "low rank":
            self.down, self.up = nn.Parameter(noise(2, c)), nn.Parameter(noise(width, 2))
        if self.how == "masked":
            self.register_buffer("open", (torch.arange(width * c) % 3 > 0).view(width, c).float())
        self.form = form.resized(c=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.product(self.moved.there(x)))

    def product(self, x: Tensor) -> Tensor:
        w, b = self.weight, self.bias
        if self.how == "linear":
            return functional.linear(x, w, b)
        if self.how == "low rank":
            return functional.linear(x, w + self.up @ self.down, b)
        if self.how == "masked":
            return functional.linear(x, w * self.open, b)
        if self.how == "conv":
            return functional.conv1d(x, w[:, :, None], b)
        if self.how == "left":
            return w @ x if b is None else w @ x + b[:, None]
        if self.how == "matmul":
            y = x @ w
        elif self.how == "einsum":
            y = torch.einsum("...c,cd->...d", x, w)
        elif self.how == "tensordot":
            y = torch.tensordot(x, w, dims=1)
        elif self.how == "sum":
            y = (x.unsqueeze(-1) * w).sum(-2)
        elif self.how == "batched":
            flat = x.reshape(1, -1, x.size(-1))
            y = torch.bmm(flat, w[None]).view(*x.shape[:-1], w.size(1))
        else:
            flat = x.reshape(-1, x.size(-1))
            if b is not None:
                return torch.addmm(b, flat, w).view((*x.shape[:-1], b.numel()))
            return torch.mm(flat, w).view(*x.shape[:-1], -1)
        return y if b is None else y + b


class GroupedWeight(Step):
    """A product of each group of channels with its own matrix (DeepFilterNet)."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.groups = pick.divisor(form.channels)
        width = form.channels // self.groups
        self.weight = nn.Parameter(noise(self.groups, width, pick(width, 4)))
        self.moved = Moved(pick, form, -1)
        self.how = pick("einsum", "matmul")
        self.form = form.resized(c=self.groups * self.weight.size(-1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = x.unflatten(-1, (self.groups, -1))
        if self.how == "einsum":
            y = torch.einsum("...gi,gih->...gh", y, self.weight)
        else:
            y = (y.unsqueeze(-2) @ self.weight).squeeze(-2)
        return self.moved.back(y.flatten(-2))


class PositionTable(Step):
    """An embedding of the numbers of the positions."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes not in ("btc", "tc"):
            raise UnfitError(form.axes)
        self.table = nn.Embedding(24, form.channels)
        if form.size("t") > 20:
            raise UnfitError("long")
        self.register_buffer("numbers", torch.arange(24))
        self.how = pick("arange", "buffer", "weight", "one")

    def forward(self, x: Tensor) -> Tensor:
        count = x.size(-2)
        if self.how == "weight":
            return x + self.table.weight[:count]
        if self.how == "one":
            return x + self.table(torch.tensor(3))
        return x + self.table(torch.arange(count) if self.how == "arange" else self.numbers[:count])


class Subclassed(Step):
    """Convolutions that people derive, or whose weights are computed."""

    def draw(self, pick: Pick, form: Form) -> None:
        place = channels_first(form)
        if len(form.axes) - 1 - place != 1:
            raise UnfitError("one axis of positions")
        how = pick("wrapped", "standard", "new", "old", "spectral")
        c = form.channels
        groups = pick(1, *[g for g in (2, c) if c % g == 0])
        width = pick(c, 2 * c)
        kind = {"wrapped": WrappedConv, "standard": StandardConv}.get(how, nn.Conv1d)
        layer = kind(c, width, 3, padding=1, groups=groups)
        if how == "new":
            layer = parametrizations.weight_norm(layer, dim=pick(0, 2, 1, -1))
        elif how == "old":
            layer = nn.utils.weight_norm(layer, dim=pick(0, 2, 1))
        elif how == "spectral":
            layer = parametrizations.spectral_norm(layer)
        self.layer, self.moved = layer, Moved(pick, form, place)
        self.form = form.resized(c=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.layer(self.moved.there(x)))


class Normalised(Step):
    """A layer along the channels whose weight is a norm away from its parameter."""

    def draw(self, pick: Pick, form: Form) -> None:
        layer = nn.Linear(form.channels, pick(*WIDTHS))
        how = pick("new", "old", "spectral", "orthogonal")
        if how == "new":
            layer = parametrizations.weight_norm(layer, dim=pick(0, 1, None))
        elif how == "old":
            layer = nn.utils.weight_norm(layer, dim=pick(0, 1))
        elif how == "spectral":
            layer = parametrizations.spectral_norm(layer)
        else:
            layer = parametrizations.orthogonal(layer)
        self.layer, self.moved = layer, Moved(pick, form, -1)
        self.form = form.resized(c=layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.layer(self.moved.there(x)))


class Tied(Step):
    """A weight that two layers share, or that is used outside of its layer as well."""

    def draw(self, pick: Pick, form: Form) -> None:
        c, wide = form.channels, pick(8, 6)
        self.moved, self.how = (
            Moved(pick, form, -1),
            pick.of("transposed, twice, outside, gain, module"),
        )
        self.one, self.two, self.gain = (
            nn.Linear(c, wide),
            nn.Linear(c, wide),
            nn.Parameter(noise(c)),
        )
        if self.how == "twice":
            self.two.weight = self.one.weight
        elif self.how == "module":
            self.two = self.one
        back = self.how in ("transposed", "outside", "gain")
        self.form = form if back else form.resized(c=wide)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "transposed":
            y = functional.linear(self.one(x).relu(), self.one.weight.t())
        elif self.how == "outside":
            y = x + self.one(x) @ self.one.weight / self.one.weight.norm()
        elif self.how == "gain":
            y = (x * self.gain).relu() + self.gain
        else:
            y = self.one(x).relu() + self.two(-x)
        return self.moved.back(y)


class Held(Step):
    """Tensors that are neither parameters nor buffers."""

    def draw(self, pick: Pick, form: Form) -> None:
        c = form.channels
        self.layer, self.moved = nn.Linear(c, c), Moved(pick, form, -1)
        self.how = pick.of("attribute, list, dict, closure, default, weight, index, shift")
        table = noise(c, near=1)
        self.table, self.tables, self.named = table, [table, table + 1], {"gain": table}
        self.weight, self.index = noise(6, c), torch.arange(c).flip(0)
        self.closure = lambda x: x * table
        if self.how == "weight":
            self.form = form.resized(c=6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = self.layer(x)
        made: dict[str, Callable[[], Any]] = {
            "attribute": lambda: y * self.table,
            "list": lambda: y * self.tables[0] + self.tables[1],
            "dict": lambda: y + self.named["gain"],
            "closure": lambda: self.closure(y),
            "default": lambda: self.scaled(y),
            "weight": lambda: functional.linear(y, self.weight.to(y)),
            "index": lambda: y[..., self.index],
            "shift": lambda: y + self.table[: y.size(-1)],
        }
        return self.moved.back(made[self.how]())

    def scaled(self, y: Tensor, gain: Tensor | None = None) -> Tensor:
        return y * (self.table if gain is None else gain)
