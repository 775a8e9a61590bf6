"""Steps that split, merge and reorder the channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import WIDTHS, Form, Moved, Pick, Step, UnfitError, moments, noise


class Halves(Step):
    """Two halves of the channels, and what is made of them."""

    def draw(self, pick: Pick, form: Form) -> None:
        c = form.channels
        if c % 2:
            raise UnfitError("odd")
        self.at, self.half = form.at("c"), c // 2
        self.how = pick.of(
            "chunk, split, slices, number, unbind, stride, index, narrow, tensor_split, select"
        )
        self.what = pick.of("gate, sum, first, swap, one, product, pairs, glu, wide")
        keeps = self.what in ("swap", "one", "pairs")
        self.layer = nn.Linear(self.half, 6) if self.what == "wide" else None
        self.moved = Moved(Pick([]), form, -1)
        wide = 6 + self.half if self.what == "wide" else c if keeps else self.half
        self.form = form.resized(c=wide)

    def parts(self, x: Tensor) -> Any:
        at, half = self.at, x.size(self.at) // 2
        if self.how == "chunk":
            return x.chunk(2, at)
        if self.how == "split":
            return x.split(half, dim=at)
        if self.how == "slices":
            return x[(slice(None),) * at + (slice(half),)], x[
                (slice(None),) * at + (slice(half, None),)
            ]
        if self.how == "number":
            return x.split([self.half, self.half], at)
        if self.how == "unbind":
            return x.unflatten(at, (2, -1)).unbind(at)
        if self.how == "stride":
            return [x[(slice(None),) * at + (slice(n, None, 2),)] for n in (0, 1)]
        if self.how == "index":
            first = torch.arange(half)
            return x.index_select(at, first), x.index_select(at, first + half)
        if self.how == "narrow":
            return x.narrow(at, 0, half), x.narrow(at, half, half)
        if self.how == "select":
            y = x.unflatten(at, (-1, 2))
            return y.select(at + 1, 0), y.select(at + 1, 1)
        return torch.tensor_split(x, 2, dim=at)

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "glu":
            return functional.glu(x, self.at)
        a, b = self.parts(x)
        if self.layer is not None:
            return torch.cat([self.moved.back(self.layer(self.moved.there(a))), b], self.at)
        if self.what == "pairs":
            return torch.stack([a, b.tanh()], self.at + 1).flatten(self.at, self.at + 1)
        made = {
            "gate": lambda: a * b.sigmoid(),
            "sum": lambda: a + b,
            "first": lambda: a,
            "product": lambda: a * b,
            "swap": lambda: torch.cat([b, a], self.at),
            "one": lambda: torch.cat([a.tanh(), b], self.at),
        }
        return made[self.what]()


class Split(Step):
    """The axis of the channels becomes two."""

    def draw(self, pick: Pick, form: Form) -> None:
        if "g" in form.axes:
            raise UnfitError("split")
        self.groups, self.at = pick.divisor(form.channels), form.at("c")
        self.width = form.channels // self.groups
        if self.width < 2:
            raise UnfitError("narrow")
        self.inner = pick(False, True)  # whether the groups are the inner axis
        self.how = pick("unflatten", "groups", "width", "both", "computed", "batch")
        axes = form.axes.replace("c", "cg" if self.inner else "gc")
        sizes = list(form.sizes)
        sizes[self.at : self.at + 1] = (
            [self.width, self.groups] if self.inner else [self.groups, self.width]
        )
        self.form = Form(axes, tuple(sizes))

    def forward(self, x: Tensor) -> Tensor:
        at, shape = self.at, x.shape
        groups = self.groups
        width: int = {"groups": -1, "computed": shape[at] // groups}.get(self.how, self.width)
        groups = -1 if self.how == "width" else groups
        both = (width, groups) if self.inner else (groups, width)
        if self.how == "unflatten":
            return x.unflatten(at, (-1, groups) if self.inner else (groups, -1))
        if self.how == "batch" and at:
            return x.reshape(-1, *shape[1:at], *both, *shape[at + 1 :])
        return x.reshape(*shape[:at], *both, *shape[at + 1 :])


class Merge(Step):
    """Groups go into the channels, the batch, or the positions."""

    def draw(self, pick: Pick, form: Form) -> None:
        if "g" not in form.axes:
            raise UnfitError("not split")
        others = [a for a in form.axes if a not in "cg"]
        into = pick("c", "c", "c", *others)
        pair = pick(into + "g", "g" + into)
        rest = form.without("g")
        self.axes = rest.axes.replace(into, pair)
        self.order = tuple(form.at(a) for a in self.axes)
        self.at, size = self.axes.index(pair), form.size("g") * form.size(into)
        self.how = pick("flatten", "minus one", "product", "number")
        self.size = size
        self.form = rest.resized(**{into: size})

    def forward(self, x: Tensor) -> Tensor:
        if self.order != tuple(range(x.dim())):
            x = x.permute(self.order)
        at, shape = self.at, x.shape
        if self.how == "flatten":
            return x.flatten(at, at + 1)
        size = {"minus one": -1, "product": shape[at] * shape[at + 1]}.get(self.how, self.size)
        return x.reshape(*shape[:at], size, *shape[at + 2 :])


class Permute(Step):
    """Axes in another order, the batch first."""

    def draw(self, pick: Pick, form: Form) -> None:
        rest = form.axes.replace("b", "")
        turns = [rest[n:] + rest[:n] for n in range(1, len(rest))] + [
            rest[::-1],
            rest[1:2] + rest[:1] + rest[2:],
        ]
        axes = form.axes[: form.axes.startswith("b")] + pick(*turns)
        self.order = tuple(form.at(a) for a in axes)
        self.how = pick("permute", "contiguous", "einsum", "movedim")
        self.form = form.ordered(axes)
        self.letters = f"{form.axes}->{axes}"

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "einsum":
            return torch.einsum(self.letters, x)
        if self.how == "movedim":
            return x.movedim(self.order, tuple(range(x.dim())))
        x = x.permute(*self.order)
        return x if self.how == "permute" else x.contiguous()


class Shuffle(Step):
    """The channels in another order."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.groups, self.at = pick.divisor(form.channels), form.at("c")
        self.how = pick("view", "unflatten", "flip", "roll", "index", "module")
        if self.how == "module":
            if len(form.axes) < 3:
                raise UnfitError("no positions")
            self.moved, self.shuffle = Moved(pick, form, 1), nn.ChannelShuffle(self.groups)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("order", torch.randperm(form.channels, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        at = self.at
        if self.how == "view":
            shape = x.shape
            y = x.reshape(*shape[:at], self.groups, shape[at] // self.groups, *shape[at + 1 :])
            return y.transpose(at, at + 1).reshape(shape)
        if self.how == "unflatten":
            return x.unflatten(at, (-1, self.groups)).transpose(at, at + 1).flatten(at, at + 1)
        if self.how == "flip":
            return x.flip(at)
        if self.how == "roll":
            return x.roll(1, at)
        if self.how == "index":
            return x.index_select(at, self.order)
        return self.moved.back(self.shuffle(self.moved.there(x)))


class PartOfChannels(Step):
    """Some of the channels only."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.channels < 4:
            raise UnfitError("narrow")
        self.at, self.c = form.at("c"), form.channels
        self.how = pick("first", "last", "every other", "list", "top", "without one")
        kept = {"first": 3, "last": self.c - 1, "every other": (self.c + 1) // 2, "list": 2,
                "top": 3, "without one": self.c - 1}[self.how]  # fmt: skip
        self.form = form.resized(c=kept)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "first":
            return x.narrow(self.at, 0, 3)
        if self.how == "last":
            return x.narrow(self.at, 1, x.size(self.at) - 1)
        if self.how == "every other":
            return x[(slice(None),) * self.at + (slice(None, None, 2),)]
        if self.how == "list":
            return x[(slice(None),) * self.at + ([2, 0],)]
        if self.how == "top":
            return x.topk(3, self.at)[0]
        return x.diff(dim=self.at)


class Repeated(Step):
    """Channels several times over."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.at = form.at("c")
        self.how = pick("interleave", "repeat", "expand", "stack")
        self.form = form.resized(c=2 * form.channels)

    def forward(self, x: Tensor) -> Tensor:
        at = self.at
        if self.how == "interleave":
            return x.repeat_interleave(2, at)
        if self.how == "repeat":
            return x.repeat([2 if n == at else 1 for n in range(x.dim())])
        if self.how == "expand":
            shape = [*x.shape[:at], 2, *x.shape[at:]]
            return x.unsqueeze(at).expand(shape).flatten(at, at + 1)
        return torch.stack([x, x.tanh()], at).flatten(at, at + 1)


class Flat(Step):
    """All positions of all channels become features."""

    def draw(self, pick: Pick, form: Form) -> None:
        size = 1
        for axis in form.axes.replace("b", ""):
            size *= form.size(axis)
        if size > 36 or len(form.axes) - ("b" in form.axes) < 2:
            raise UnfitError("large")
        self.layer, self.first = nn.Linear(size, pick(*WIDTHS)), "b" in form.axes
        self.how = pick("flatten", "view", "number")
        width = self.layer.out_features
        self.form = Form("bc", (form.size("b"), width)) if self.first else Form("c", (width,))

    def forward(self, x: Tensor) -> Tensor:
        if not self.first:
            return self.layer(x.flatten() if self.how == "flatten" else x.reshape(-1))
        if self.how == "flatten":
            return self.layer(x.flatten(1))
        last = -1 if self.how == "view" else self.layer.in_features
        return self.layer(x.reshape(x.size(0), last))


class ByShape(Step):
    """What is shaped as another tensor is."""

    def draw(self, pick: Pick, form: Form) -> None:
        c = form.channels
        self.layer, self.moved = nn.Linear(c, c), Moved(pick, form, -1)
        self.how = pick(
            "view", "view_as", "reshape", "expand_as", "flat", "zeros", "number", "size"
        )
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = self.layer(x)
        if self.how == "view":
            y = y.view(x.shape)
        elif self.how == "view_as":
            y = y.tanh().view_as(x)
        elif self.how == "reshape":
            y = y.reshape(*x.shape[:-1], x.shape[-1])
        elif self.how == "expand_as":
            y = y[..., :1, :].expand_as(x) if x.dim() > 1 else y.expand_as(x)
        elif self.how == "flat":
            y = self.layer(x.reshape(-1, x.size(-1))).reshape(x.shape)
        elif self.how == "zeros":
            y = torch.zeros(x.shape, dtype=x.dtype) + y
        elif self.how == "number":
            y = y.reshape(-1, self.c).reshape(*x.shape[:-1], self.c)
        else:
            y = torch.broadcast_to(y, x.size()) * 1.5
        return self.moved.back(y)


class Pixels(Step):
    """Channels become positions, or positions channels."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "bchw":
            raise UnfitError(form.axes)
        c, h, w = form.channels, form.size("h"), form.size("w")
        self.up = pick(True, False)
        if self.up:
            if c % 4 or c < 8:
                raise UnfitError("narrow")
            self.form = form.resized(c=c // 4, h=2 * h, w=2 * w)
        else:
            if h % 2 or w % 2:
                raise UnfitError("odd")
            self.form = form.resized(c=4 * c, h=h // 2, w=w // 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(x, 2) if self.up else functional.pixel_unshuffle(x, 2)


class Regroup(Step):
    """Something between a split of the channels and their merge."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.groups = pick.divisor(form.channels)
        self.width = form.channels // self.groups
        if self.width < 2:
            raise UnfitError("narrow")
        self.moved = Moved(pick, form, -1)
        self.how = pick.of("norm, softmax, max, hand, gain, mean, attend, rotate, matrix, bias")
        self.inner = pick(False, True)
        self.gain = nn.Parameter(noise(self.groups, 1, near=1))
        self.norm = nn.LayerNorm(self.groups if self.inner else self.width)
        self.matrix = nn.Parameter(noise(self.groups, self.groups))
        self.bias = nn.Parameter(noise(self.width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = x.reshape(*x.shape[:-1], self.groups, -1)
        y = self.changed(y.transpose(-1, -2)).transpose(-1, -2) if self.inner else self.changed(y)
        return self.moved.back(y.reshape(x.shape))

    def changed(self, y: Tensor) -> Tensor:
        if self.how == "norm":
            return self.norm(y)
        if self.how == "softmax":
            return y.softmax(-2) * y
        if self.how == "max":
            return y - y.amax(-1, keepdim=True)
        if self.how == "hand":
            return moments(y, (-1,))
        if self.how == "gain":
            return y * (self.gain.transpose(0, 1) if self.inner else self.gain)
        if self.how == "mean":
            return y + y.mean(-2, keepdim=True)
        if self.how == "attend":
            return (y @ y.mT / 4).softmax(-1) @ y
        if self.how == "rotate":
            return torch.stack([y, -y.roll(1, -2)], -1).sum(-1)
        if self.how == "matrix":
            return y @ self.matrix if self.inner else self.matrix @ y
        return y + (self.bias[:, None] if self.inner else self.bias)
