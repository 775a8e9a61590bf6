"""Steps of random networks that rearrange, join, pool and compute, mostly without weights."""

from __future__ import annotations

from typing import Any

import torch
from random_forms import WIDTHS, Form, Moved, Pick, Step, UnfitError, channels_first, noise
from torch import Tensor, nn
from torch.nn import functional

# -- element by element ---------------------------------------------------------------------------


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


# -- joining --------------------------------------------------------------------------------------


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


# -- splitting the channels -----------------------------------------------------------------------


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


# -- positions ------------------------------------------------------------------------------------


class Pool(Step):
    def draw(self, pick: Pick, form: Form) -> None:
        place = channels_first(form)
        axes = len(form.axes) - 1 - place
        if axes not in (1, 2):
            raise UnfitError("no positions")
        self.moved = Moved(pick, form, place)
        self.how = pick("average", "max", "adaptive", "nearest", "linear", "same")
        self.axes = axes
        sizes = {a: form.size(a) for a in form.axes if a not in "bc"}
        if self.how in ("average", "max"):
            sizes = {a: s // 2 for a, s in sizes.items()}
        elif self.how == "adaptive":
            sizes = dict.fromkeys(sizes, 2)
        elif self.how in ("nearest", "linear"):
            if place == 0:
                raise UnfitError("no batch")
            sizes = {a: 2 * s for a, s in sizes.items()}
        self.form = form.resized(**sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.pooled(self.moved.there(x)))

    def pooled(self, x: Tensor) -> Tensor:
        one = self.axes == 1
        if self.how == "average":
            return (functional.avg_pool1d if one else functional.avg_pool2d)(x, 2)
        if self.how == "max":
            return (functional.max_pool1d if one else functional.max_pool2d)(x, 2)
        if self.how == "same":
            return (functional.avg_pool1d if one else functional.avg_pool2d)(x, 3, 1, 1)
        if self.how == "adaptive":
            return (functional.adaptive_avg_pool1d if one else functional.adaptive_max_pool2d)(x, 2)
        if self.how == "nearest":
            return functional.interpolate(x, scale_factor=2)
        return functional.interpolate(x, scale_factor=2, mode="linear" if one else "bilinear")


class WrongPool(Step):
    """A pooling that takes the last axis as it is, which may be the channels."""

    def draw(self, pick: Pick, form: Form) -> None:
        if len(form.axes) < 2 or form.axes[-1] == "b":
            raise UnfitError(form.axes)
        size = form.sizes[-1]
        self.how = pick("average", "max", "pad", "interpolate")
        sizes = {"pad": size + 2, "interpolate": 2 * size}
        if self.how == "interpolate" and len(form.axes) != 3:
            raise UnfitError(form.axes)
        if self.how in ("average", "max") and len(form.axes) > 3:
            raise UnfitError(form.axes)
        self.form = form.resized(**{form.axes[-1]: sizes.get(self.how, size // 2)})

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "pad":
            return functional.pad(x, (1, 1))
        if self.how == "interpolate":
            return functional.interpolate(x, scale_factor=2)
        return functional.avg_pool1d(x, 2) if self.how == "average" else functional.max_pool1d(x, 2)


class Reduce(Step):
    """One axis of positions goes."""

    def draw(self, pick: Pick, form: Form) -> None:
        axis = pick(*[a for a in reversed(form.axes) if a not in "bc"])
        self.axis = form.at(axis)
        self.how = pick.of(
            "mean, max, sum, first, last, amax, norm, var, logsumexp, median, unbind, "
            "weighted, squeeze"
        )
        self.form = form.without(axis)

    def forward(self, x: Tensor) -> Tensor:
        axis = self.axis
        made: dict[str, Any] = {
            "mean": lambda: x.mean(axis),
            "max": lambda: x.max(axis)[0],
            "sum": lambda: x.sum(axis) / 4,
            "first": lambda: x.select(axis, 0),
            "last": lambda: x[(slice(None),) * axis + (-1,)],
            "amax": lambda: x.amax(dim=axis),
            "norm": lambda: x.norm(dim=axis),
            "var": lambda: x.var(axis, unbiased=False),
            "logsumexp": lambda: x.logsumexp(axis),
            "median": lambda: x.median(dim=axis).values,
            "unbind": lambda: x.unbind(axis)[0] * 2,
            "weighted": lambda: (x * x.softmax(axis)).sum(axis),
            "squeeze": lambda: x.mean(axis, keepdim=True).squeeze(axis),
        }
        return made[self.how]()


class Gate(Step):
    """A tensor times what is computed from it along some axes."""

    def draw(self, pick: Pick, form: Form) -> None:
        places = [a for a in form.axes if a not in "bc"]
        axes = pick("c", *places, "c" + "".join(places), *(["".join(places)] if places else []))
        self.dims = tuple(form.at(a) for a in axes)
        self.how = pick.of(
            "mean, max, sum, norm, var, softmax, logsumexp, cumsum, argmax, sort, prod, "
            "min, log_softmax, squeeze"
        )

    def forward(self, x: Tensor) -> Tensor:
        dims, last = self.dims, self.dims[-1]
        made: dict[str, Any] = {
            "mean": lambda: x * x.mean(dims, keepdim=True).sigmoid(),
            "max": lambda: x * x.amax(dims, keepdim=True).tanh(),
            "sum": lambda: x + x.sum(dims, keepdim=True) / 10,
            "norm": lambda: x * torch.linalg.vector_norm(x, dim=dims, keepdim=True).tanh(),
            "var": lambda: x * x.var(dim=dims, unbiased=False, keepdim=True).sigmoid(),
            "softmax": lambda: x * functional.softmax(x, dim=last),
            "logsumexp": lambda: x - x.logsumexp(dims, keepdim=True),
            "cumsum": lambda: x.cumsum(last) / 4,
            "argmax": lambda: x + (x.argmax(last, keepdim=True) == 0).to(x),
            "sort": lambda: x.sort(dim=last)[0],
            "prod": lambda: x + x.tanh().prod(last, keepdim=True),
            "min": lambda: x - x.min(dim=last, keepdim=True).values,
            "log_softmax": lambda: x.log_softmax(last),
            "squeeze": lambda: x * x.mean(last).unsqueeze(last),
        }
        return made[self.how]()


class Positions(Step):
    """Positions in another order, more of them, or fewer."""

    def draw(self, pick: Pick, form: Form) -> None:
        axis = pick(*[a for a in reversed(form.axes) if a not in "bc"])
        self.axis, size = form.at(axis), form.size(axis)
        if size < 3:
            raise UnfitError("short")
        self.how = pick.of(
            "pad, flip, roll, slice, shift, stride, index, token, sort, difference, "
            "both ways, gather, fold, repeat, reflect"
        )
        sizes = {"pad": size + 3, "slice": size - 2, "stride": (size + 1) // 2, "token": size + 1,
                 "difference": size - 1, "repeat": 2 * size, "reflect": size + 2}  # fmt: skip
        if self.how == "token":
            shape = [1] * len(form.axes)
            shape[form.at("c")] = form.channels
            self.token = nn.Parameter(noise(*shape))
        if self.how == "fold" and (size % 2 or size < 4):
            raise UnfitError("odd")
        if self.how == "reflect" and (self.axis != len(form.axes) - 1 or len(form.axes) != 3):
            raise UnfitError("last axis")
        self.form = form.resized(**{axis: sizes.get(self.how, size)})

    def forward(self, x: Tensor) -> Tensor:
        a, n = self.axis, x.size(self.axis)
        before = (slice(None),) * a
        behind = x.dim() - 1 - a
        made: dict[str, Any] = {
            "pad": lambda: functional.pad(x, (0, 0) * behind + (1, 2)),
            "flip": lambda: x.flip(a),
            "roll": lambda: torch.roll(x, 2, a),
            "slice": lambda: x[(*before, slice(1, -1))],
            "shift": lambda: torch.cat(
                [torch.zeros_like(x.narrow(a, 0, 1)), x.narrow(a, 0, n - 1)], a
            ),
            "stride": lambda: x[(*before, slice(None, None, 2))],
            "index": lambda: x.index_select(a, torch.arange(n - 1, -1, -1)),
            "token": lambda: torch.cat([self.token.expand(self.one(x)), x], a),
            "sort": lambda: x.sort(a, descending=True)[0],
            "difference": lambda: x.narrow(a, 1, n - 1) - x.narrow(a, 0, n - 1),
            "both ways": lambda: x + x.flip([a]).cumsum(a).flip([a]) / n,
            "gather": lambda: x.gather(a, x.argsort(a)),
            "fold": lambda: x.unflatten(a, (-1, 2)).transpose(a, a + 1).flatten(a, a + 1),
            "repeat": lambda: x.repeat_interleave(2, dim=a),
            "reflect": lambda: functional.pad(x, (1, 1), mode="reflect"),
        }
        return made[self.how]()

    def one(self, x: Tensor) -> list[int]:
        return [1 if n == self.axis else s for n, s in enumerate(x.shape)]


class Spectrum(Step):
    """A Fourier transform along positions."""

    def draw(self, pick: Pick, form: Form) -> None:
        axis = pick(*[a for a in reversed(form.axes) if a not in "bc"])
        self.axis = form.at(axis)
        self.how = pick("abs", "real", "back", "cat")
        size = form.size(axis)
        sizes = {axis: size if self.how == "back" else size // 2 + 1}
        if self.how == "cat":
            sizes["c"] = 2 * form.channels
        self.at = form.at("c")
        self.form = form.resized(**sizes)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft(x, dim=self.axis)
        if self.how == "abs":
            return (y.real**2 + y.imag**2 + 1e-2).sqrt()
        if self.how == "real":
            return torch.view_as_real(y)[..., 0]
        if self.how == "cat":
            return torch.cat([y.real, y.imag], self.at)
        return torch.fft.irfft(y * 0.5, n=x.size(self.axis), dim=self.axis)


class Segments(Step):
    """A layer along pieces of the positions, which become part of the batch (dual path)."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "btc" or form.size("t") % 2 or form.size("t") < 4:
            raise UnfitError(form.axes)
        c = form.channels
        self.layer, self.back = nn.GRU(c, 6, batch_first=True), nn.Linear(6, c)
        self.how, self.c = pick("unflatten", "view", "unfold", "number"), c

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        if self.how == "unflatten":
            y = x.unflatten(1, (2, -1)).flatten(0, 1)
        elif self.how == "view":
            y = x.reshape(b * 2, t // 2, c)
        elif self.how == "number":
            y = x.reshape(-1, t // 2, self.c)
        else:
            y = x.unfold(1, t // 2, t // 2).permute(0, 1, 3, 2).flatten(0, 1)
        y = self.back(self.layer(y)[0])
        return x + y.reshape(b, t, c)


class Similar(Step):
    """Products of a tensor with itself."""

    def draw(self, pick: Pick, form: Form) -> None:
        places = [a for a in form.axes if a not in "bc"]
        if not places:
            raise UnfitError("no positions")
        self.moved = Moved(pick, form, -1)
        self.how = pick("positions", "channels", "cosine", "outer", "dot", "einsum")
        if self.how == "channels" and form.channels > 12:
            raise UnfitError("wide")

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "positions":
            y = (x @ x.transpose(-1, -2) / 4).softmax(-1) @ x
        elif self.how == "channels":
            y = x @ (x.transpose(-1, -2) @ x / 8).softmax(-1)
        elif self.how == "cosine":
            y = x * functional.cosine_similarity(x, x.roll(1, -2), dim=-1).unsqueeze(-1)
        elif self.how == "outer":
            y = torch.einsum("...tc,...td->...tcd", x, x.tanh()).mean(-1)
        elif self.how == "dot":
            y = x + (x * x.sin()).sum(-1, keepdim=True) / 8
        else:
            y = torch.einsum("...tc,...sc->...ts", x, x.tanh()).tanh() @ x
        return self.moved.back(y)


class Windows(Step):
    """Channels that meet their neighbours, or pieces by unfold and fold."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "bct":
            raise UnfitError(form.axes)
        self.how = pick("unfold", "im2col", "mean")
        t, c = form.size("t"), form.channels
        if t < 4 or t % 2:
            raise UnfitError("short")
        if self.how == "im2col":
            self.form = form.resized(c=2 * c, t=t // 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "im2col":
            return functional.unfold(x.unsqueeze(-1), (2, 1), stride=(2, 1))
        if self.how == "mean":
            return x.unfold(2, 2, 2).mean(-1).repeat_interleave(2, 2)
        y = functional.unfold(x.unsqueeze(-1), (2, 1), stride=(2, 1)).tanh()
        return functional.fold(y, (x.size(-1), 1), (2, 1), stride=(2, 1)).squeeze(-1)
