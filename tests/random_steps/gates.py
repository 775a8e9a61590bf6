"""Steps that multiply by what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import Form, Moved, Pick, Step, UnfitError, noise


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


class Bilinear(Step):
    def draw(self, pick: Pick, form: Form) -> None:
        self.moved = Moved(pick, form, -1)
        self.layer = nn.Bilinear(form.channels, form.channels, 4)
        self.form = form.resized(c=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x).contiguous()
        return self.moved.back(self.layer(x, x.tanh()))


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
