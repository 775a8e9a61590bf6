"""Steps that hold layers of torch, alone or a few of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import WIDTHS, Form, Moved, Pick, Step, UnfitError, channels_first, noise

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


class ScaledLinear(nn.Linear):
    """Its weight is computed anew in each run."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * 0.5, self.bias)


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


class Module(Step):
    """Torch's modules that rearrange, in a row with layers."""

    def draw(self, pick: Pick, form: Form) -> None:
        how = pick.of("flatten, unflatten, upsample, pad, shuffle, same, stride, dropout, squeeze")
        c = form.channels
        if form.axes == "bct":
            t, width = form.size("t"), pick(6, 8)
            layers = {
                "flatten": [nn.Flatten(0, 1), nn.Unflatten(0, (-1, c)), nn.Conv1d(c, width, 1)],
                "unflatten": [nn.Unflatten(1, (c, 1)), nn.Conv2d(c, width, 1), nn.Flatten(2)],
                "upsample": [nn.Conv1d(c, width, 1), nn.Upsample(scale_factor=2), nn.ReLU(True)],
                "pad": [nn.ConstantPad1d((1, 1), 0.5), nn.Conv1d(c, width, 3)],
                "shuffle": [nn.Conv1d(c, 6, 1), nn.ChannelShuffle(3), nn.Conv1d(6, width, 1)],
                "same": [nn.Conv1d(c, width, 3, padding="same"), nn.Hardtanh()],
                "stride": [nn.Conv1d(c, width, 2, stride=2), nn.Softplus()],
                "dropout": [nn.Conv1d(c, width, 1), nn.Dropout1d(0.5), nn.SELU()],
                "squeeze": [nn.Conv1d(c, width, 1), nn.AdaptiveAvgPool1d(1), nn.Sigmoid()],
            }[how]
            t = {"upsample": 2 * t, "stride": t // 2, "squeeze": 1}.get(how, t)
            self.form = form.resized(c=width, t=t)
        elif form.axes == "bchw" and how in ("pad", "same", "upsample", "stride", "squeeze"):
            h, w = form.size("h"), form.size("w")
            layers = {
                "pad": [nn.ReplicationPad2d(1), nn.Conv2d(c, 6, 3), nn.BatchNorm2d(6), nn.ReLU6()],
                "same": [nn.Conv2d(c, 6, (3, 1), padding="same"), nn.InstanceNorm2d(6)],
                "upsample": [nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(c, 6, 1)],
                "stride": [nn.Conv2d(c, 6, (2, 1), stride=(2, 1)), nn.PReLU(6)],
                "squeeze": [nn.AdaptiveMaxPool2d((1, None)), nn.Conv2d(c, 6, 1), nn.Mish()],
            }[how]
            sizes = {"upsample": (2 * h, 2 * w), "stride": (h // 2, w), "squeeze": (1, w)}
            h, w = sizes.get(how, (h, w))
            self.form = form.resized(c=6, h=h, w=w)
        else:
            raise UnfitError(form.axes)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Sequences(Step):
    """Torch's modules for sequences that are less common."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes not in ("btc", "bct") or form.channels % 2:
            raise UnfitError(form.axes)
        c, self.moved = form.channels, Moved(pick, form, -1)
        self.how = pick.of("projected, decoder, encoder, stack, lookup, glu, softsign")
        if self.how == "projected":
            self.layer: nn.Module = nn.LSTM(c, 6, proj_size=4, batch_first=True)
        elif self.how == "decoder":
            self.layer = nn.TransformerDecoderLayer(c, 2, 10, batch_first=True)
        elif self.how == "encoder":
            layer = nn.TransformerEncoderLayer(c, 2, 10, batch_first=True, activation="gelu")
            self.layer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        elif self.how == "stack":
            self.layer = nn.Sequential(nn.Linear(c, 8), nn.GLU(), nn.Linear(4, 6), nn.Tanhshrink())
        elif self.how == "lookup":
            self.layer = nn.EmbeddingBag(5, c, mode="mean")
        else:
            self.layer = nn.Sequential(
                nn.Linear(c, 6), nn.GLU() if self.how == "glu" else nn.Softsign()
            )
        width = {"projected": 4, "stack": 6, "glu": 3, "softsign": 6}.get(self.how, c)
        self.form = form.resized(c=width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "projected":
            y = self.layer(x)[0]
        elif self.how == "decoder":
            y = self.layer(x, x.tanh())
        elif self.how == "lookup":
            y = x + self.layer(torch.arange(4).view(1, 4) % 5).unsqueeze(1)
        else:
            y = self.layer(x)
        return self.moved.back(y)
