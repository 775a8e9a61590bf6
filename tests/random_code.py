"""Steps of random networks about how code is written: numbers, states, tensors to fill."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from random_forms import Form, Moved, Pick, Step, UnfitError, noise
from torch import Tensor, nn
from torch.nn import functional


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


class Distance(Step):
    """Distances and products to a table, or between positions."""

    def draw(self, pick: Pick, form: Form) -> None:
        if form.axes != "btc" or form.size("t") > 20:
            raise UnfitError(form.axes)
        self.table = nn.Parameter(noise(5, form.channels))
        self.how = pick.of("table, positions, product, cosine, hard, kernel")
        self.back = nn.Linear(5, form.channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "table":
            return x + self.back((x.unsqueeze(2) - self.table).square().sum(-1).neg().softmax(-1))
        if self.how == "positions":
            return (x.unsqueeze(1) - x.unsqueeze(2)).square().mean(-1).neg().softmax(-1) @ x
        if self.how == "product":
            return x + self.back(torch.tanh(x @ self.table.T))
        if self.how == "cosine":
            near = functional.cosine_similarity(x.unsqueeze(2), self.table, dim=-1)
            return x + near.softmax(-1) @ self.table
        if self.how == "hard":
            near = torch.cdist(x, self.table.expand(len(x), -1, -1)).argmin(-1)
            return x + self.table[near]
        return x + torch.einsum("btc,nc,nd->btd", x, self.table, self.table) / 5
