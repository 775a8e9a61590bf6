"""Steps of random networks that are blocks of separators, transformers and vision networks."""

from __future__ import annotations

from typing import Any

import torch
from random_forms import WIDTHS, Form, Moved, Pick, Step, UnfitError, held, hold, noise
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def sequence(form: Form) -> None:
    """Refuse all but sequences with a batch."""
    if form.axes not in ("btc", "bct"):
        raise UnfitError(form.axes)


def moments(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """A norm that several blocks call."""
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + 1e-3).sqrt()


class Square(torch.autograd.Function):
    """An operation with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.square().clamp(max=2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class TasNetBlock(Step):
    """Narrow, wide, depthwise, narrow, with norms over everything, and a skip."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        c, wide = form.channels, pick(8, 12, 6)
        self.moved = Moved(pick, form, 1)
        self.how = pick.of("global, group, batch, by hand, causal")
        self.into, self.out, self.skip = (
            nn.Conv1d(c, wide, 1),
            nn.Conv1d(wide, c, 1),
            nn.Conv1d(wide, c, 1),
        )
        self.depth = nn.Conv1d(wide, wide, 3, padding=pick(1, 2), groups=wide)
        self.extra = 2 * (self.depth.padding[0] - 1)
        self.act = nn.PReLU(pick(1, wide))
        self.gain, self.bias = nn.Parameter(noise(wide, 1, near=1)), nn.Parameter(noise(wide, 1))
        self.norm = nn.BatchNorm1d(wide) if self.how == "batch" else nn.GroupNorm(1, wide)

    def normed(self, x: Tensor) -> Tensor:
        if self.how in ("group", "batch"):
            return self.norm(x)
        if self.how == "causal":
            count = torch.arange(1, x.size(2) + 1).to(x) * x.size(1)
            mean = x.sum(1).cumsum(1) / count
            square = x.square().sum(1).cumsum(1) / count
            y = (x - mean.unsqueeze(1)) / (square - mean**2 + 0.1).sqrt().unsqueeze(1)
            return self.gain * y + self.bias
        if self.how == "by hand":
            return self.gain * moments(x, (1, 2)) + self.bias
        mean, var = x.mean((1, 2), keepdim=True), x.var((1, 2), keepdim=True, unbiased=False)
        return self.gain * (x - mean) / torch.pow(var + 1e-3, 0.5) + self.bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = self.depth(self.normed(self.act(self.into(x))))
        y = self.normed(self.act(y[..., : y.size(-1) - self.extra] if self.extra else y))
        return self.moved.back(x + self.out(y) + self.skip(y).relu())


class WaveNetStack(Step):
    """Gated convolutions, whose skips are added up."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        c, self.width, count = form.channels, pick(6, 8, 4), pick(2, 1)
        self.moved = Moved(pick, form, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(c, 2 * self.width, 3, padding=2**n, dilation=2**n) for n in range(count)
        )
        self.ends = nn.ModuleList(nn.Conv1d(self.width, c + 5, 1) for _ in range(count))
        self.how, self.c = pick.of("chunk, slices, number, glu"), c
        self.form = form.resized(c=5)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.moved.there(x), None
        for gate, end in zip(self.gates, self.ends, strict=True):
            y = gate(x)
            if self.how == "glu":
                y = functional.glu(y, 1)
            else:
                a, b = (
                    y.chunk(2, 1)
                    if self.how == "chunk"
                    else (y[:, : y.size(1) // 2], y[:, y.size(1) // 2 :])
                    if self.how == "slices"
                    else y.split(self.width, 1)
                )
                y = a.tanh() * b.sigmoid()
            y = end(y)
            x = (x + y[:, : self.c]) * 0.7
            total = y[:, self.c :] if total is None else total + y[:, self.c :]
        return self.moved.back(total)


class DualPath(Step):
    """Layers inside pieces and across them."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        if form.size("t") % 2 or form.size("t") < 4:
            raise UnfitError("short")
        self.moved, c = Moved(pick, form, -1), form.channels
        self.inside = nn.GRU(c, 5, batch_first=True, bidirectional=pick(True, False))
        self.across = nn.LSTM(c, 6, batch_first=True)
        self.back = nn.ModuleList(
            [nn.Linear(5 + 5 * self.inside.bidirectional, c), nn.Linear(6, c)]
        )
        self.norms = nn.ModuleList(pick(nn.LayerNorm, nn.Identity)(c) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        b, t, c = x.shape
        x = x.reshape(b, t // 2, 2, c)
        y = self.back[0](self.inside(x.reshape(b * (t // 2), 2, c))[0]).view(b, t // 2, 2, -1)
        x = x + self.norms[0](y)
        y = x.transpose(1, 2).reshape(b * 2, t // 2, -1)
        y = self.back[1](self.across(y)[0]).reshape(b, 2, t // 2, -1).transpose(1, 2)
        return self.moved.back((x + self.norms[1](y)).reshape(b, t, -1))


class Conformer(Step):
    """A feed-forward, a gated depthwise convolution, and back."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        self.moved, c = Moved(pick, form, -1), form.channels
        self.norm, self.wide = nn.LayerNorm(c), nn.Linear(c, 2 * c)
        self.depth, self.batch = nn.Conv1d(c, c, 3, padding=1, groups=c), nn.BatchNorm1d(c)
        self.out = nn.Linear(c, c)
        self.how = pick.of("linear, conv, share")
        self.point = nn.Conv1d(c, 2 * c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = self.norm(x)
        if self.how == "conv":
            y = functional.glu(self.point(y.transpose(1, 2)), 1)
        else:
            y = functional.glu(self.wide(y), -1).transpose(1, 2)
        y = functional.silu(self.batch(self.depth(y))).transpose(1, 2)
        return self.moved.back(x + 0.5 * self.out(y))


class Mixer(Step):
    """Along positions, then along channels (MLP-Mixer)."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        self.moved, c, t = Moved(pick, form, -1), form.channels, form.size("t")
        self.one, self.two = nn.Linear(t, 5), nn.Linear(5, t)
        self.three, self.four = nn.Linear(c, 9), nn.Linear(9, c)
        self.norm = nn.LayerNorm(c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        x = x + self.two(functional.gelu(self.one(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return self.moved.back(x + self.four(functional.gelu(self.three(x))))


class ConvNeXt(Step):
    """A depthwise convolution, a norm of channels last, wide and narrow, and a scale."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes not in ("bchw", "bhwc"):
            raise UnfitError(form.axes)
        c = form.channels
        self.moved, wide = Moved(Pick([]), form, 1), pick(8, 12)
        self.depth = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.norm, self.one, self.two = nn.LayerNorm(c), nn.Linear(c, wide), nn.Linear(wide, c)
        self.scale = pick(None, nn.Parameter(noise(c)))
        self.response = pick(False, True)
        self.gain = nn.Parameter(noise(1, 1, 1, wide))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = functional.gelu(self.one(self.norm(self.depth(x).permute(0, 2, 3, 1))))
        if self.response:
            norm = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
            y = y + self.gain * (y * norm / (norm.mean(-1, keepdim=True) + 0.1))
        y = self.two(y)
        y = y if self.scale is None else self.scale * y
        return self.moved.back(x + y.permute(0, 3, 1, 2))


class WindowAttention(Step):
    """Attention inside windows of an image (Swin), or what merges them."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes not in ("bchw", "bhwc") or form.size("h") % 2 or form.size("w") % 2:
            raise UnfitError(form.axes)
        self.moved, c = Moved(Pick([]), form, -1), form.channels
        self.how, self.heads = pick.of("attend, merge, focus, shifted"), pick(1, 2)
        if self.how in ("attend", "shifted"):
            if c % self.heads:
                raise UnfitError("heads")
            self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)
            self.bias = nn.Parameter(noise(self.heads, 4, 4))
        else:
            self.out = nn.Linear(4 * c, pick(*WIDTHS), bias=False)
            self.norm = nn.LayerNorm(4 * c)
            form = form.resized(h=form.size("h") // 2, w=form.size("w") // 2)
            self.form = form.resized(c=self.out.out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        b, h, w, c = x.shape
        if self.how == "merge":
            y = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
            return self.moved.back(self.out(self.norm(torch.cat(y, -1))))
        y = x.roll((-1, -1), (1, 2)) if self.how == "shifted" else x
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        if self.how == "focus":
            return self.moved.back(self.out(self.norm(y.flatten(3))))
        y = y.reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(len(y), 4, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + self.bias).softmax(-1)
        y = self.out((scores @ v).transpose(1, 2).reshape(-1, 4, c))
        y = y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return self.moved.back(x + (y.roll((1, 1), (1, 2)) if self.how == "shifted" else y))


class CrossAttention(Step):
    """Queries of one tensor, keys and values of an earlier one, or learned queries."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "btc":
            raise UnfitError(form.axes)
        other = self.earlier(pick, lambda f: f.axes == "btc" and f.size("b") == form.size("b"))
        self.reads = (other,)
        c, wide = form.channels, self.past[other].channels
        self.how = pick.of("module, by hand, learned, multi-query")
        self.queries = nn.Parameter(noise(1, 3, 8))
        self.attend = nn.MultiheadAttention(c, 1, kdim=wide, vdim=wide, batch_first=True)
        self.q, self.k, self.v = nn.Linear(c, 8), nn.Linear(wide, 8), nn.Linear(wide, 8)
        if self.how == "multi-query":
            self.k, self.v = nn.Linear(wide, 4), nn.Linear(wide, 4)
        self.out = nn.Linear(8, c)
        if self.how == "learned":
            self.form = form.resized(t=3)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        if self.how == "module":
            return x + self.attend(x, other, other, need_weights=False)[0]
        k, v = self.k(other), self.v(other)
        if self.how == "learned":
            q = self.queries.expand(len(x), -1, -1)
            return self.out(functional.scaled_dot_product_attention(q, k, v))
        q = self.q(x)
        if self.how == "multi-query":
            q = q.unflatten(-1, (2, -1)).transpose(1, 2)
            y = functional.scaled_dot_product_attention(q, k.unsqueeze(1), v.unsqueeze(1))
            return x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.out((q @ k.mT / 3).softmax(-1) @ v)


class Causal(Step):
    """Attention that looks back only, with its mask in a buffer or made each time (GPT)."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "btc" or form.channels % 2 or form.size("t") > 16:
            raise UnfitError(form.axes)
        self.c = form.channels
        self.qkv, self.out = nn.Linear(self.c, 3 * self.c), nn.Linear(self.c, self.c)
        self.register_buffer("mask", torch.ones(20, 20).tril().view(1, 1, 20, 20))
        self.how = pick.of("flag, buffer, made, split")
        self.norm = nn.LayerNorm(self.c)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).split(self.c if self.how == "split" else c, dim=2)
        q, k, v = (y.view(b, t, 2, c // 2).transpose(1, 2) for y in (q, k, v))
        if self.how == "flag":
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) / (k.size(-1) ** 0.5)
            mask = self.mask[:, :, :t, :t] if self.how == "buffer" else torch.ones(t, t).tril()
            y = scores.masked_fill(mask == 0, float("-inf")).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).contiguous().view(b, t, c))


class Experts(Step):
    """Several layers, weighed by another one."""

    def draw(self, pick: Pick, form: Form) -> None:
        c, width = form.channels, pick(8, 6)
        self.moved = Moved(pick, form, -1)
        self.router = nn.Linear(c, 3)
        self.experts = nn.ModuleList(nn.Linear(c, width) for _ in range(3))
        self.how = pick.of("stack, loop, top, weights")
        self.bank = nn.Parameter(noise(3, width, c))
        self.form = form.resized(c=width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        weights = self.router(x).softmax(-1)
        if self.how == "top":
            kept, index = weights.topk(2, -1)
            weights = torch.zeros_like(weights).scatter(-1, index, kept)
        if self.how == "weights":
            y = torch.einsum("...e,eoc,...c->...o", weights, self.bank, x)
        elif self.how == "loop":
            y = 0
            for number, expert in enumerate(self.experts):
                y = y + weights[..., number : number + 1] * expert(x)
        else:
            made = torch.stack([expert(x) for expert in self.experts], -1)
            y = (made * weights.unsqueeze(-2)).sum(-1)
        return self.moved.back(y)


class Cells(Step):
    """A recurrent cell, called for each position."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "btc" or form.size("t") > 12:
            raise UnfitError(form.axes)
        self.how, self.width = pick.of("gru, lstm, by hand, mean"), pick(6, 8)
        self.gru, self.lstm = (
            nn.GRUCell(form.channels, self.width),
            nn.LSTMCell(form.channels, self.width),
        )
        self.one, self.two = nn.Linear(form.channels, self.width), nn.Linear(self.width, self.width)
        self.form = form.resized(c=self.width)

    def forward(self, x: Tensor) -> Tensor:
        state, made = x.new_zeros(len(x), self.width), []
        memory = torch.zeros_like(state)
        for t in range(x.size(1)):
            if self.how == "gru":
                state = self.gru(x[:, t], state)
            elif self.how == "lstm":
                state, memory = self.lstm(x[:, t], (state, memory))
            elif self.how == "mean":
                state = 0.5 * state + self.one(x[:, t] - x[:, t].mean(-1, keepdim=True))
            else:
                state = torch.tanh(self.one(x[:, t]) + self.two(state))
            made.append(state)
        return torch.stack(made, 1)


class Loop(Step):
    """A function of torch that code calls in a loop, or for each of several tensors."""

    def draw(self, pick: Pick, form: Form) -> None:
        c, self.moved = form.channels, Moved(pick, form, -1)
        self.layers = nn.ModuleList(nn.Linear(c, c) for _ in range(pick(2, 3)))
        self.gains = nn.ParameterList(noise(c, near=1) for _ in self.layers)
        self.how = pick.of("layer, mean, max, hand, softmax, normalize")

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        for layer, gain in zip(self.layers, self.gains, strict=True):
            y = layer(x)
            if self.how == "layer":
                y = functional.layer_norm(y, y.shape[-1:], gain)
            elif self.how == "mean":
                y = y - y.mean(-1, keepdim=True)
            elif self.how == "max":
                y = y * y.amax(-1, keepdim=True).sigmoid()
            elif self.how == "hand":
                y = moments(y, (-1,)) * gain
            elif self.how == "softmax":
                y = y.softmax(-1) * y
            else:
                y = functional.normalize(y, dim=-1) * gain
            x = x + y
        return self.moved.back(x)


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


class Statistics(Step):
    """Mean and deviation along positions, weighed or not (speaker embeddings)."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        c, self.moved = form.channels, Moved(pick, form, -1)
        self.how = pick.of("plain, attentive, one, context")
        self.one, self.two = nn.Linear(c * (3 if self.how == "context" else 1), 6), nn.Linear(6, c)
        self.score = nn.Linear(c, 1)
        wide = c if self.how == "one" else 2 * c
        self.form = Form("bc", (form.size("b"), wide))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        mean, std = x.mean(1), (x.var(1, unbiased=False) + 1e-2).sqrt()
        if self.how == "plain":
            return torch.cat([mean, std], 1)
        if self.how == "one":
            return (self.score(x).softmax(1) * x).sum(1)
        y = x
        if self.how == "context":
            around = [mean.unsqueeze(1).expand(-1, x.size(1), -1), std.unsqueeze(1).expand_as(x)]
            y = torch.cat([x, *around], 2)
        weights = self.two(self.one(y).tanh()).softmax(1)
        mean = (x * weights).sum(1)
        std = ((x**2 * weights).sum(1) - mean**2).clamp(min=1e-2).sqrt()
        return torch.cat((mean, std), 1)


class Condition(Step):
    """One vector for all positions, joined to each of them."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        c, self.moved = form.channels, Moved(pick, form, -1)
        self.layer, self.how = (
            nn.Linear(c, pick(4, 6)),
            pick.of("expand, repeat, expand -1, broadcast"),
        )
        self.form = form.resized(c=c + self.layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        y = self.layer(x[:, 0]).unsqueeze(1)
        if self.how == "expand":
            y = y.expand(y.size(0), x.size(1), y.size(2))
        elif self.how == "repeat":
            y = y.repeat(1, x.size(1), 1)
        elif self.how == "expand -1":
            y = y.expand(-1, x.size(1), -1)
        else:
            y = torch.broadcast_to(y, (*x.shape[:2], y.size(-1)))
        return self.moved.back(torch.cat([x, y], -1))


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


class Masked(Step):
    """Positions beyond lengths do not count."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        self.moved = Moved(pick, form, -1)
        self.how = pick.of("fill, multiply, mean, scores, norm")
        self.layer = nn.Linear(form.channels, form.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        lengths = torch.full((len(x),), max(1, x.size(1) - 1))
        mask = torch.arange(x.size(1))[None] < lengths[:, None]
        y = self.layer(x)
        if self.how == "fill":
            y = y.masked_fill(~mask.unsqueeze(-1), 0.0)
        elif self.how == "multiply":
            y = y * mask[..., None]
        elif self.how == "mean":
            y = y - (y * mask[..., None]).sum(1, keepdim=True) / lengths[:, None, None]
        elif self.how == "scores":
            scores = (y @ x.mT).masked_fill(~mask[:, None], -1e4).softmax(-1)
            y = scores @ y
        else:
            m = mask[..., None].to(y)
            mean = (y * m).sum((1, 2), keepdim=True) / (m.sum((1, 2), keepdim=True) * y.size(-1))
            y = (y - mean) * m
        return self.moved.back(y)


class LongFilter(Step):
    """A filter for each channel, by Fourier transforms or as a running mean."""

    def draw(self, pick: Pick, form: Form) -> None:
        sequence(form)
        self.moved, t = Moved(pick, form, 1), form.size("t")
        if t < 3:
            raise UnfitError("short")
        self.how = pick.of("fourier, conv, decay, response, complex")
        hold(self, "filter", held(pick, noise(form.channels, 3)))
        self.scale = nn.Parameter(torch.view_as_complex(noise(form.channels, t // 2 + 1, 2)))
        self.decay = nn.Parameter(noise(form.channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        t = x.size(-1)
        if self.how == "fourier":
            y = torch.fft.rfft(x, n=2 * t) * torch.fft.rfft(self.filter, n=2 * t)
            y = torch.fft.irfft(y, n=2 * t)[..., :t]
        elif self.how == "conv":
            y = functional.conv1d(x, self.filter.unsqueeze(1), padding=1, groups=x.size(1))
        elif self.how == "decay":
            powers = self.decay.sigmoid()[:, None] ** torch.arange(t - 1, -1, -1).to(x)
            y = (x * powers).cumsum(-1)
        elif self.how == "response":
            y = x.unfold(-1, 3, 1)
            y = functional.pad((y * self.filter[:, None]).sum(-1), (1, 1))
        else:
            y = torch.fft.irfft(torch.fft.rfft(x) * self.scale, n=t)
        return self.moved.back(x + y)


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


class Pyramid(Step):
    """Several scales, brought to one and joined."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "bct" or form.size("t") < 4 or form.size("t") % 2:
            raise UnfitError(form.axes)
        c, wide = form.channels, pick(6, 8)
        self.down = nn.ModuleList([nn.Conv1d(c, wide, 1), nn.Conv1d(wide, wide, 2, stride=2)])
        self.top = nn.Conv1d(wide, wide, 1)
        self.how = pick.of("add, cat, gate")
        self.form = form.resized(c=2 * wide if self.how == "cat" else wide)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down[0](x)
        two = self.down[1](one.relu())
        up = functional.interpolate(self.top(two), size=one.shape[2:], mode="nearest")
        if self.how == "cat":
            return torch.cat((one, up), dim=1)
        return one + up if self.how == "add" else one * torch.sigmoid(up)
