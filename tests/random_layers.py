"""Steps of random networks that hold weights: layers, norms, gains, bare weights, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from random_forms import (
    WIDTHS,
    Form,
    Moved,
    Pick,
    Step,
    UnfitError,
    channels_first,
    held,
    hold,
    noise,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


class ScaledLinear(nn.Linear):
    """Its weight is computed anew in each run."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * 0.5, self.bias)


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


# -- layers ---------------------------------------------------------------------------------------


class Linear(Step):
    """Along the channels, or along the last positions."""

    def draw(self, pick: Pick, form: Form) -> None:
        axis = pick("c", "c", "c", form.axes[-1])
        if axis == "b":
            raise UnfitError(axis)
        width = pick(*WIDTHS) if axis == "c" else pick(form.size(axis), 3)
        kind = pick(nn.Linear, nn.Linear, ScaledLinear)
        self.layer = kind(form.size(axis), width, bias=pick(True, False))
        self.moved = Moved(pick, form, -1) if axis == "c" else None
        self.form = form.resized(**{axis: width})

    def forward(self, x: Tensor) -> Tensor:
        if self.moved is None:
            return self.layer(x)
        return self.moved.back(self.layer(self.moved.there(x)))


class Conv(Step):
    def draw(self, pick: Pick, form: Form) -> None:
        place = channels_first(form)
        axes = len(form.axes) - 1 - place
        if axes not in CONVS:
            raise UnfitError("no positions")
        c = form.channels
        groups = pick(1, 1, c, *[g for g in (2, 3) if c % g == 0])
        width = c * pick(1, 2) if groups == c else groups * max(1, pick(*WIDTHS) // groups)
        kernel = pick(3, 1)
        mode = pick("zeros", "zeros", "replicate", "circular") if kernel > 1 else "zeros"
        self.layer = CONVS[axes](
            c, width, kernel, padding=kernel // 2, groups=groups, bias=pick(True, False),
            padding_mode=mode,
        )  # fmt: skip
        self.moved = Moved(pick, form, place)
        self.form = form.resized(c=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.layer(self.moved.there(x)))


class ConvTransposed(Step):
    def draw(self, pick: Pick, form: Form) -> None:
        place = channels_first(form)
        axes = len(form.axes) - 1 - place
        if axes not in TRANSPOSED:
            raise UnfitError("no positions")
        c, stride = form.channels, pick(1, 2)
        groups = pick(1, 1, c, *[g for g in (2, 3) if c % g == 0])
        width = groups * max(1, pick(*WIDTHS) // groups)
        kernel = {1: 3, 2: 2}[stride]
        self.layer = TRANSPOSED[axes](
            c, width, kernel, stride, padding=2 - stride, groups=groups, bias=pick(True, False)
        )
        self.moved = Moved(pick, form, place)
        moved = [a for a in form.axes if a not in "bc"]
        self.form = form.resized(c=width, **{a: stride * form.size(a) for a in moved})

    def forward(self, x: Tensor) -> Tensor:
        return self.moved.back(self.layer(self.moved.there(x)))


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


class Recurrent(Step):
    """Along the last axis of positions; the others are merged into the batch."""

    def draw(self, pick: Pick, form: Form) -> None:
        axes = [a for a in form.axes if a not in "bc"]
        if not axes:
            raise UnfitError("no positions")
        kind = pick(nn.GRU, nn.LSTM, nn.RNN)
        self.hidden, self.both = pick(6, 8, 5), pick(False, True)
        layers, first = pick(1, 2), pick(True, False)
        self.layer = kind(form.channels, self.hidden, layers, batch_first=first,
                          bidirectional=self.both)  # fmt: skip
        self.states = layers * (1 + self.both)
        self.moved = Moved(pick, form, -1)
        self.start = pick("none", "none", "number", "size") if kind is not nn.LSTM else "none"
        self.end = pick("whole", "sum", "number", "packed")
        self.merged = len(axes) > 1
        wide = self.hidden * (1 + self.both)
        self.wide = self.hidden if self.end in ("sum", "number") else wide
        self.form = form.resized(c=self.wide)

    def forward(self, x: Tensor) -> Tensor:
        y = self.moved.there(x)
        lead = y.shape[:-2]
        y = y.reshape(-1, *y.shape[-2:])
        if not self.layer.batch_first:
            y = y.transpose(0, 1)
        y = self.run(y)
        if not self.layer.batch_first:
            y = y.transpose(0, 1)
        return self.moved.back(y.reshape(*lead, *y.shape[-2:]))

    def run(self, y: Tensor) -> Tensor:
        first = self.layer.batch_first
        count, length = (y.size(0), y.size(1)) if first else (y.size(1), y.size(0))
        state = None
        if self.start == "number":
            state = torch.zeros(self.states, count, self.hidden, dtype=y.dtype)
        elif self.start == "size":
            state = y.new_zeros(self.states, count, self.layer.hidden_size)
        if self.end == "packed":
            lengths = torch.full((count,), length)
            packed = nn.utils.rnn.pack_padded_sequence(y, lengths, first)
            return nn.utils.rnn.pad_packed_sequence(self.layer(packed, state)[0], first)[0]
        y = self.layer(y, state)[0]
        if not self.both or self.end == "whole":
            return y
        if self.end == "number":
            return y[..., : self.hidden] + y[..., self.hidden :]
        return y.view(*y.shape[:2], 2, -1).sum(2)


class LastState(Step):
    """What a recurrent layer ends with, given to every position."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes not in ("btc", "bct"):
            raise UnfitError(form.axes)
        self.both = pick(False, True)
        self.layer = pick(nn.GRU, nn.LSTM)(
            form.channels, 6, batch_first=True, bidirectional=self.both
        )
        self.moved = Moved(pick, form, -1)
        self.how = pick("expand", "drop", "add")
        width = 6 * (1 + self.both)
        self.form = form.resized(c=width) if self.how != "drop" else Form("bc", (2, width))
        if "b" in form.axes and self.how == "drop":
            self.form = Form("bc", (form.size("b"), width))

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.layer(self.moved.there(x))
        state = state[0] if isinstance(state, tuple) else state
        last = torch.cat([state[-2], state[-1]], -1) if self.both else state[-1]
        if self.how == "drop":
            return last
        last = last.unsqueeze(1)
        return self.moved.back(last.expand_as(y) if self.how == "expand" else y + last)


class Residual(Step):
    """A tensor and what layers make of it."""

    def draw(self, pick: Pick, form: Form) -> None:
        c = form.channels
        self.moved = Moved(pick, form, -1)
        self.norm = pick(nn.Identity, nn.LayerNorm)(c)
        wide = pick(12, 8, c)
        self.one, self.two = nn.Linear(c, wide), nn.Linear(wide, c)
        self.gain = pick(None, nn.Parameter(noise(c)), nn.Parameter(noise(1)))
        self.how = pick("before", "after", "in place")

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = self.two(functional.gelu(self.one(self.norm(x) if self.how == "before" else x)))
        y = y if self.gain is None else y * self.gain
        if self.how == "in place":
            y += x
        else:
            y = x + y if self.how == "before" else self.norm(y + x)
        return self.moved.back(y)


class Branches(Step):
    """Several layers side by side."""

    def draw(self, pick: Pick, form: Form) -> None:
        c, widths = form.channels, (pick(4, 8, 6), pick(4, 8, 6))
        self.layers = nn.ModuleList(nn.Linear(c, w) for w in widths)
        self.moved = Moved(pick, form, -1)
        self.how = pick("cat", "dense", "sum", "product", "attend", "split")
        wide = sum(widths)
        if self.how in ("sum", "product", "attend") and widths[0] != widths[1]:
            raise UnfitError("unequal")
        if self.how in ("sum", "product", "attend"):
            wide = widths[0]
        elif self.how == "dense":
            wide += c
        elif self.how == "split":
            self.layers = nn.ModuleList([nn.Linear(c // 2, widths[0]), nn.Linear(c - c // 2, 6)])
            wide = widths[0] + 6
        self.form = form.resized(c=wide)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        parts: Any = [x, x]
        if self.how == "split":
            parts = x.split([layer.in_features for layer in self.layers], -1)
        made = [layer(part) for layer, part in zip(self.layers, parts)]  # noqa: B905
        if self.how == "sum":
            y = torch.stack(made).sum(0)
        elif self.how == "product":
            y = made[0] * made[1].tanh()
        elif self.how == "attend":
            y = torch.stack(made, -1).softmax(-1)[..., 0] * made[0]
        else:
            y = torch.cat(made if self.how != "dense" else [x, *made], -1)
        return self.moved.back(y)


class SharedAcrossGroups(Step):
    """One layer for every group of channels (GroupComm, GTCRN)."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.groups = pick.divisor(form.channels)
        width = form.channels // self.groups
        if width < 2:
            raise UnfitError("narrow")
        self.layer = nn.Linear(width, pick(width, 4))
        self.moved = Moved(pick, form, -1)
        self.how = pick("unflatten", "view", "chunk", "batch")
        self.form = form.resized(c=self.groups * self.layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "chunk":
            y = torch.cat([self.layer(part) for part in x.chunk(self.groups, -1)], -1)
        elif self.how == "view":
            y = self.layer(x.reshape(*x.shape[:-1], self.groups, x.size(-1) // self.groups))
            y = y.reshape(*x.shape[:-1], -1)
        elif self.how == "batch":
            y = self.layer(x.reshape(-1, self.layer.in_features)).view(*x.shape[:-1], -1)
        else:
            y = self.layer(x.unflatten(-1, (self.groups, -1))).flatten(-2)
        return self.moved.back(y)


class Hourglass(Step):
    """Down, up, and back together (U-Net)."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "bct" or form.size("t") < 4 or form.size("t") % 2:
            raise UnfitError(form.axes)
        c = form.channels
        self.down = nn.Conv1d(c, pick(8, 6), 2, stride=2)
        wide = self.down.out_channels
        self.how = pick("transposed", "nearest", "linear", "size")
        self.up = (
            nn.ConvTranspose1d(wide, c, 2, 2) if self.how == "transposed" else nn.Conv1d(wide, c, 1)
        )
        self.join = pick("cat", "add", "none")
        self.form = form.resized(c=2 * c) if self.join == "cat" else form

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.down(x))
        if self.how == "size":
            y = functional.interpolate(y, size=x.shape[-1])
        elif self.how != "transposed":
            mode = {"mode": "linear", "align_corners": False} if self.how == "linear" else {}
            y = functional.interpolate(y, scale_factor=2, **mode)
        y = self.up(y)
        return torch.cat([x, y], 1) if self.join == "cat" else x + y if self.join == "add" else y


# -- norms ----------------------------------------------------------------------------------------

BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


class Norm(Step):
    """A module of torch."""

    def draw(self, pick: Pick, form: Form) -> None:
        kind = pick("layer", "batch", "group", "instance", "rms", "two", "sync", "local")
        c, axes = form.channels, len(form.axes)
        place = -1 if kind in ("layer", "rms", "two") else 1
        if (place == 1 and axes < 2) or (kind in ("instance", "local") and axes < 3):
            raise UnfitError(kind)
        self.moved = Moved(pick, form, place)
        affine = pick(True, False)
        if kind == "batch":
            self.norm = BATCH[axes](c, affine=affine)
        elif kind == "sync":
            self.norm = nn.SyncBatchNorm(c)
        elif kind == "group":
            self.norm = nn.GroupNorm(
                pick(1, c, *[g for g in (2, 3, 4) if c % g == 0]), c, affine=affine
            )
        elif kind == "instance":
            self.norm = INSTANCE[axes](c, affine=affine, track_running_stats=pick(False, True))
        elif kind == "rms":
            self.norm = nn.RMSNorm(c, eps=pick(1e-3, None), elementwise_affine=affine)
        elif kind == "local":
            self.norm = nn.LocalResponseNorm(3)
        elif kind == "two":
            if axes < 2 or self.moved.how == "transpose" or form.without("c").axes[-1] == "b":
                raise UnfitError(kind)
            self.moved = Moved(Pick([]), form, -1)
            self.norm = nn.LayerNorm((form.without("c").sizes[-1], c), elementwise_affine=affine)
        else:
            self.norm = nn.LayerNorm(c, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        x = x.contiguous() if isinstance(self.norm, nn.LocalResponseNorm) else x
        return self.moved.back(self.norm(x))


class NormFunction(Step):
    """A function of torch, with bare parameters."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.kind = pick("layer", "rms", "group", "batch", "instance", "normalize", "shape")
        self.c, axes = form.channels, len(form.axes)
        place = -1 if self.kind in ("layer", "rms", "shape") else 1
        if (place == 1 and axes < 2) or (self.kind == "instance" and axes < 3):
            raise UnfitError(self.kind)
        self.moved = Moved(pick, form, place)
        hold(self, "gain", held(pick, noise(self.c, near=1)))
        hold(self, "bias", held(pick, noise(self.c)))
        self.groups = pick(1, self.c, *[g for g in (2, 4) if self.c % g == 0])
        self.axis, self.order = pick(*range(axes)), pick(2.0, 1.0)
        self.register_buffer("mean", noise(self.c))
        self.register_buffer("var", noise(self.c).abs() + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.kind == "layer":
            y = functional.layer_norm(x, (x.size(-1),), self.gain, self.bias, 1e-3)
        elif self.kind == "shape":
            y = functional.layer_norm(x, (self.c,), weight=self.gain, bias=self.bias)
        elif self.kind == "rms":
            y = functional.rms_norm(x, x.shape[-1:], self.gain, eps=1e-3)
        elif self.kind == "group":
            y = functional.group_norm(x, self.groups, self.gain, self.bias, eps=1e-3)
        elif self.kind == "instance":
            y = functional.instance_norm(x, weight=self.gain, bias=self.bias, eps=1e-3)
        elif self.kind == "batch":
            y = functional.batch_norm(x, self.mean, self.var, self.gain, self.bias)
        else:
            y = functional.normalize(x, self.order, dim=self.axis, eps=1e-2)
        return self.moved.back(y)


class NormByHand(Step):
    """Statistics over some axes, and an affine along the channels."""

    def draw(self, pick: Pick, form: Form) -> None:
        places = [a for a in form.axes if a not in "bc"]
        axes = pick("c", "c" + "".join(places), *places, "c" + "".join(places[-1:]))
        self.dims: Any = tuple(form.at(a) for a in axes)
        if len(axes) == 1:
            self.dims = pick(self.dims, self.dims[0], self.dims[0] - len(form.axes))
        self.kind = pick("layer", "rms", "norm", "std", "var_mean", "global", "steps", "sum")
        shape = [1] * len(form.axes)
        shape[form.at("c")] = form.channels
        first = pick(0, form.at("c"))  # leading axes of one element may be left out
        hold(self, "gain", held(pick, noise(*shape[first:], near=1)))
        hold(self, "bias", nn.Parameter(noise(*shape[first:])))
        self.affine = pick("both", "gain", "none", "one more")

    def forward(self, x: Tensor) -> Tensor:
        y = self.centred(x)
        if self.affine == "both":
            return y * self.gain + self.bias
        if self.affine == "one more":
            return y * (1 + self.gain)
        return y * self.gain if self.affine == "gain" else y

    def centred(self, x: Tensor) -> Tensor:
        dims = self.dims
        if self.kind == "rms":
            return x * torch.rsqrt(x.pow(2).mean(dims, keepdim=True) + 1e-3)
        if self.kind == "norm":
            if isinstance(dims, tuple) and len(dims) > 2:
                return x / (torch.linalg.vector_norm(x, dim=dims, keepdim=True) + 0.1)
            return x / (x.norm(dim=dims, keepdim=True) + 0.1)
        if self.kind == "sum":
            return x / ((x * x).sum(dims, keepdim=True) + 0.5).sqrt()
        if self.kind == "var_mean":
            var, mean = torch.var_mean(x, dims, unbiased=False, keepdim=True)
            return (x - mean) * (var + 1e-3).rsqrt()
        if self.kind == "global":  # from squares
            mean = x.mean(dims, keepdim=True)
            square = x.square().mean(dims, keepdim=True)
            return (x - mean) / (square - mean**2 + 1e-2).sqrt()
        if self.kind == "steps":
            mean = x
            for dim in dims if isinstance(dims, tuple) else (dims,):
                mean = mean.mean(dim, keepdim=True)
            return x - mean
        mean = x.mean(dim=dims, keepdim=True)
        if self.kind == "std":
            return (x - mean) / (x.std(dim=dims, keepdim=True, correction=0) + 0.1)
        return (x - mean) / ((x - mean).pow(2).mean(dim=dims, keepdim=True) + 1e-3).sqrt()


# -- bare parameters ------------------------------------------------------------------------------


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


# -- attention ------------------------------------------------------------------------------------


class Attention(Step):
    """Heads by number, attribute, or what is left; queries, keys and values in one or in three."""

    def draw(self, pick: Pick, form: Form) -> None:
        places = [a for a in form.axes if a not in "bc"]
        if not places:
            raise UnfitError("no positions")
        c = form.channels
        self.moved = Moved(pick, form, -1)
        self.split = pick("heads", "width", "both", "share", "last")
        self.fused, self.residual = pick(False, True), pick(False, True)
        self.how = pick("fast", "by hand", "einsum", "cosine")
        self.turned = pick(False, False, True)
        self.scaled = pick("width", "number", "size")
        self.heads = pick(2, 4, 1)
        self.kv = pick(self.heads, self.heads, 1, 2)
        inner = c if self.split in ("share", "last") else self.heads * pick(4, 2, 6)
        if inner % self.heads or self.heads % self.kv or inner > 24:
            raise UnfitError("heads")
        self.width = inner // self.heads
        if self.turned and self.width % 2:
            raise UnfitError("odd")
        if self.fused and self.kv != self.heads:
            raise UnfitError("fused")
        if self.fused:
            self.qkv = nn.Linear(c, 3 * inner, bias=pick(True, False))
        else:
            self.q = nn.Linear(c, inner)
            self.k, self.v = (nn.Linear(c, self.kv * self.width) for _ in "kv")
        self.norms = nn.ModuleList(pick(nn.Identity, nn.RMSNorm)(self.width) for _ in "qk")
        self.bias = pick(None, nn.Parameter(noise(self.heads, 1, 1)))
        self.out = nn.Linear(inner, c if self.residual else pick(c, 6))
        self.form = form.resized(c=self.out.out_features)

    def heads_of(self, x: Tensor, c: int, heads: int) -> Tensor:
        if self.split == "heads":
            x = x.view(*x.shape[:-1], heads, -1)
        elif self.split == "width":
            x = x.unflatten(-1, (-1, self.width))
        elif self.split == "both":
            x = x.reshape(*x.shape[:-1], heads, self.width)
        else:
            x = x.reshape(*x.shape[:-1], heads, c // self.heads)
        return x.transpose(-2, -3)

    def forward(self, given: Tensor) -> Tensor:
        x = self.moved.there(given)
        c = x.size(-1)
        if self.fused:
            q, k, v = (self.heads_of(y, c, self.heads) for y in self.qkv(x).chunk(3, -1))
        else:
            q = self.heads_of(self.q(x), c, self.heads)
            k, v = (self.heads_of(layer(x), c, self.kv) for layer in (self.k, self.v))
        q, k = self.norms[0](q), self.norms[1](k)
        if self.turned:
            q, k = self.turn(q), self.turn(k)
        y = self.attend(q, k, v).transpose(-2, -3)
        y = y.reshape(*x.shape[:-1], c) if self.split == "last" else y.flatten(-2)
        y = self.out(y)
        return self.moved.back(x + y if self.residual else y)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.how == "fast":
            gqa = {"enable_gqa": True} if self.kv != self.heads else {}
            return functional.scaled_dot_product_attention(q, k, v, self.mask(q), **gqa)
        if self.kv != self.heads:
            k, v = (y.repeat_interleave(self.heads // self.kv, -3) for y in (k, v))
        if self.how == "cosine":
            q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        scale = {"width": self.width**-0.5, "number": 0.5, "size": q.size(-1) ** -0.5}[self.scaled]
        if self.how == "einsum":
            scores = torch.einsum("...nd,...md->...nm", q, k) * scale
        else:
            scores = (q * scale) @ k.transpose(-1, -2)
        if self.bias is not None:
            scores = scores + self.bias
        scores = scores.softmax(-1)
        return torch.einsum("...nm,...md->...nd", scores, v) if self.how == "einsum" else scores @ v

    def mask(self, q: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.expand(-1, q.size(-2), q.size(-2))

    def turn(self, x: Tensor) -> Tensor:
        count, half = x.size(-2), self.width // 2
        angle = torch.arange(count)[:, None] * 10.0 ** -torch.arange(half)
        cos, sin = angle.cos().to(x), angle.sin().to(x)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class TorchAttention(Step):
    """Torch's own layers."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes not in ("btc", "bct", "tc") or form.channels % 2:
            raise UnfitError(form.axes)
        self.moved = Moved(pick, form, -1)
        self.whole = pick(False, True)
        first = "b" in form.axes
        if self.whole:
            self.layer: nn.Module = nn.TransformerEncoderLayer(
                form.channels, 2, 12, batch_first=first, norm_first=pick(False, True)
            )
        else:
            self.layer = nn.MultiheadAttention(form.channels, pick(2, 1), batch_first=first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        return self.moved.back(self.layer(x) if self.whole else x + self.layer(x, x, x)[0])


class LinearAttention(Step):
    """Attention without scores: keys and values meet first (or channels)."""

    def draw(self, pick: Pick, form: Form) -> None:
        if not [a for a in form.axes if a not in "bc"]:
            raise UnfitError("no positions")
        c = form.channels
        self.moved = Moved(pick, form, -1)
        self.q, self.k, self.v = (nn.Linear(c, n) for n in (8, 8, pick(8, 6)))
        self.how = pick("softmax", "channels", "plain")
        if self.how == "channels" and self.v.out_features != 8:
            raise UnfitError("unequal")
        self.form = form.resized(c=self.v.out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.how == "channels":
            scores = (q.transpose(-1, -2) @ k * q.size(-2) ** -0.5).softmax(-1)
            y = (scores @ v.transpose(-1, -2)).transpose(-1, -2)
        elif self.how == "softmax":
            y = q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)
        else:
            y = q @ (k.transpose(-1, -2) @ v) / x.size(-2)
        return self.moved.back(y)


# -- gates ----------------------------------------------------------------------------------------


class SqueezeExcite(Step):
    """A gate for each channel, from means over positions."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.dims = tuple(form.at(a) for a in form.axes if a not in "bc")
        if not self.dims:
            raise UnfitError("no positions")
        c = form.channels
        self.down, self.up = nn.Linear(c, pick(4, 6)), None
        self.how = pick("scale", "film", "expand", "view")
        self.up = nn.Linear(self.down.out_features, 2 * c if self.how == "film" else c)
        self.spread = tuple(slice(None) if a in "bc" else None for a in form.axes)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(self.down(x.mean(self.dims)).relu())
        if self.how == "film":
            scale, shift = gate.chunk(2, -1)
            return x * (1 + scale[self.spread]) + shift[self.spread]
        gate = gate.sigmoid()
        if self.how == "view":
            shape = [1 if n in self.dims else s for n, s in enumerate(x.shape)]
            return x * gate.view(shape)
        gate = gate[self.spread]
        return x * (gate.expand_as(x) if self.how == "expand" else gate)


class Mask(Step):
    """A mask for an earlier tensor."""

    def draw(self, pick: Pick, form: Form) -> None:
        other = self.earlier(
            pick, lambda f: f.axes == form.axes and f.without("c") == form.without("c")
        )
        self.reads = (other,)
        width = self.past[other].channels
        self.layer = nn.Linear(form.channels, width)
        self.moved = Moved(pick, form, -1)
        self.how: Callable[[Tensor], Tensor] = pick(torch.sigmoid, torch.relu, torch.tanh)
        self.form = form.resized(c=width)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return other * self.how(self.moved.back(self.layer(self.moved.there(x))))


class NeighbourGate(Step):
    """A gate from a convolution over the channels (ECA)."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "bct":
            raise UnfitError(form.axes)
        self.layer = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.layer(x.mean(2).unsqueeze(1)).sigmoid()
        return x * gate.transpose(1, 2)


class Bilinear(Step):
    def draw(self, pick: Pick, form: Form) -> None:
        self.moved = Moved(pick, form, -1)
        self.layer = nn.Bilinear(form.channels, form.channels, 4)
        self.form = form.resized(c=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x).contiguous()
        return self.moved.back(self.layer(x, x.tanh()))


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
