"""Steps that are blocks of separators, transformers and vision networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import Form, Moved, Pick, Step, UnfitError, moments, noise, sequence


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
