"""Steps along positions: pooled, reordered, transformed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import Form, Moved, Pick, Step, UnfitError, channels_first, held, hold, noise, sequence


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


class Indexed(Step):
    """Positions by numbers: gathered, added up, or looked up."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "btc":
            raise UnfitError(form.axes)
        self.c = form.channels
        self.table = nn.Parameter(noise(9, self.c))
        self.how = pick.of("add, scatter, lookup, hot, take, segments, gather, best, where")

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        order = torch.arange(t) // 2
        if self.how == "add":
            return x + torch.zeros_like(x).index_add_(1, order, x)
        if self.how == "scatter":
            index = order[None, :, None].expand(b, t, c)
            return x + torch.zeros_like(x).scatter_add(1, index, x)
        if self.how == "lookup":
            return x + functional.embedding(order[None] % 9, self.table)
        if self.how == "hot":
            return x + functional.one_hot(order % 9, 9).to(x) @ self.table
        if self.how == "take":
            return torch.take_along_dim(x, order[None, :, None], 1)
        if self.how == "segments":
            return torch.stack([x[:, order == n].mean(1) for n in range(2)], 1).repeat(
                1, t // 2 + 1, 1
            )[:, :t]
        if self.how == "gather":
            score = x.mean(-1)
            best = score.argmax(1)
            return x + x[torch.arange(b), best].unsqueeze(1)
        if self.how == "best":
            index = x.norm(dim=-1).topk(2, 1)[1]
            return x * x.gather(1, index.unsqueeze(-1).expand(-1, -1, c)).mean(1, keepdim=True)
        y = torch.where((order % 2 == 0)[:, None], x, self.table[order % 9])
        return y
