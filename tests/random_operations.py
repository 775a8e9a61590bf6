"""Steps of random networks that are one operation along any axis, or leave torch for it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from random_forms import Form, Moved, Pick, Step, UnfitError, noise
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

OPERATIONS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    # (tensor, axis, its size) -> a tensor of the same shape
    "cummax": lambda x, a, n: x.cummax(a)[0],
    "cumprod": lambda x, a, n: x.tanh().cumprod(a),
    "logcumsumexp": lambda x, a, n: x.logcumsumexp(a),
    "flip": lambda x, a, n: x.flip(a),
    "roll": lambda x, a, n: x.roll(-1, a),
    "softmin": lambda x, a, n: functional.softmin(x, a),
    "std": lambda x, a, n: x / (1 + x.std(a, keepdim=True, correction=0)),
    "std_mean": lambda x, a, n: x - torch.std_mean(x, a, correction=0, keepdim=True)[1],
    "aminmax": lambda x, a, n: x - torch.aminmax(x, dim=a, keepdim=True).min,
    "kthvalue": lambda x, a, n: x - x.kthvalue(1, a, keepdim=True)[0],
    "median": lambda x, a, n: x * x.median(a, keepdim=True)[0],
    "quantile": lambda x, a, n: x - x.quantile(0.5, dim=a, keepdim=True),
    "nansum": lambda x, a, n: x + x.nansum(a, keepdim=True) / 9,
    "nanmean": lambda x, a, n: x + x.nanmean(a, keepdim=True),
    "count": lambda x, a, n: x + torch.count_nonzero(x > 0, a).unsqueeze(a) / 9,
    "any": lambda x, a, n: x * (x > 1).any(a, keepdim=True),
    "all": lambda x, a, n: x + (x < 1).all(a, keepdim=True).to(x),
    "argsort": lambda x, a, n: x.gather(a, x.argsort(dim=a)),
    "rank": lambda x, a, n: x + x.argsort(a).argsort(a) / n,
    "topk": lambda x, a, n: x.topk(n, a)[0],
    "msort": lambda x, a, n: torch.sort(x, dim=a, stable=True).values,
    "diff": lambda x, a, n: x.diff(dim=a, prepend=x.narrow(a, 0, 1)),
    "renorm": lambda x, a, n: x.renorm(2, a, 1.0),
    "normalize": lambda x, a, n: functional.normalize(x, p=2.0, dim=a, eps=1e-3),
    "vector_norm": lambda x, a, n: x * torch.linalg.vector_norm(x, 1, dim=a, keepdim=True) / 9,
    "inf_norm": lambda x, a, n: x / (1 + torch.linalg.vector_norm(x, float("inf"), a, True)),
    "narrow": lambda x, a, n: torch.cat([x.narrow(a, 1, n - 1), x.narrow(a, 0, 1)], a),
    "chunk": lambda x, a, n: torch.cat(x.chunk(2, a)[::-1], a),
    "tensor_split": lambda x, a, n: torch.cat(torch.tensor_split(x, 3, a), a),
    "unbind": lambda x, a, n: torch.stack(x.unbind(a), a),
    "select": lambda x, a, n: x + x.select(a, 0).unsqueeze(a),
    "index": lambda x, a, n: x.index_select(a, torch.arange(n)),
    "swap": lambda x, a, n: x.swapaxes(a, -1).swapaxes(a, -1),
    "move": lambda x, a, n: torch.moveaxis(torch.moveaxis(x, a, 0).exp2(), 0, a),
    "flatten": lambda x, a, n: x.flatten(0, a).view(x.shape),
    "squeeze": lambda x, a, n: x.unsqueeze(a).mul(2).squeeze(a),
    "strided": lambda x, a, n: x.contiguous().as_strided(x.shape, x.contiguous().stride()),
    "expand": lambda x, a, n: x + x.narrow(a, 0, 1).expand(x.shape),
    "tile": lambda x, a, n: x.unsqueeze(a).tile([2 if d == a else 1 for d in range(x.dim() + 1)])[
        (slice(None),) * a + (1,)
    ],
    "triangle": lambda x, a, n: (
        x.movedim(a, -1) @ torch.ones(n, n, dtype=x.dtype).triu() / n
        if a == x.dim() - 1
        else x.tanh()
    ),
    "outer": lambda x, a, n: (
        x * torch.ones(n, dtype=x.dtype).view([n if d == a else 1 for d in range(x.dim())])
    ),
    "clamp": lambda x, a, n: x.clamp(max=x.mean(a, keepdim=True)),
    "where": lambda x, a, n: torch.where(x > x.mean(a, keepdim=True), x, x * 0.1),
    "lerp": lambda x, a, n: x.lerp(x.mean(a, keepdim=True), 0.3),
    "atan2": lambda x, a, n: torch.atan2(x, 1 + x.narrow(a, 0, 1).square()),
    "hypot": lambda x, a, n: torch.hypot(x, x.roll(1, a)),
    "addcdiv": lambda x, a, n: torch.addcdiv(x, x, x.abs().sum(a, keepdim=True) + 1, value=0.5),
    "sum_to_size": lambda x, a, n: (
        x - x.sum_to_size([1 if d == a else s for d, s in enumerate(x.shape)]) / 9
    ),
    "masked_scatter": lambda x, a, n: x.masked_scatter(x > 0, x.relu()[x > 0] * 2),
    "index_put": lambda x, a, n: x.index_put((torch.tensor([0]),), x[:1] * 2, accumulate=False),
    "scatter": lambda x, a, n: torch.zeros_like(x).scatter(a, x.argsort(a), x),
    "index_copy": lambda x, a, n: x.index_copy(a, torch.tensor([0]), x.narrow(a, n - 1, 1)),
    "index_reduce": lambda x, a, n: x.index_add(a, torch.arange(n), x, alpha=0.5),
    "select_scatter": lambda x, a, n: x.select_scatter(x.select(a, 0) * 2, a, 0),
    "slice_scatter": lambda x, a, n: x.slice_scatter(x.narrow(a, 0, 1).sin(), a, 0, 1),
    "diagonal": lambda x, a, n: x + torch.diag_embed(x).sum(-1),
    "einsum": lambda x, a, n: torch.einsum("...c,...c->...c", x, x.sigmoid()),
    "einsum_sum": lambda x, a, n: x + torch.einsum("...c->...", x).unsqueeze(-1) / 9,
    "complex": lambda x, a, n: torch.fft.ifft(torch.fft.fft(x, dim=a) * 0.5, dim=a).real,
    "hfft": lambda x, a, n: torch.fft.irfft(torch.fft.rfft(x, dim=a).abs(), n=n, dim=a),
    "gumbel": lambda x, a, n: x * functional.gumbel_softmax(x, dim=a),
    "one_hot": lambda x, a, n: x * functional.one_hot(x.argmax(a), n).movedim(-1, a),
    "trapezoid": lambda x, a, n: x + torch.trapezoid(x, dim=a).unsqueeze(a) / 9,
    "gradient": lambda x, a, n: torch.gradient(x, dim=a)[0],
    "bucket": lambda x, a, n: x + torch.bucketize(x, torch.linspace(-1, 1, 5, dtype=x.dtype)) / 9,
    "cov": lambda x, a, n: x + torch.linalg.norm(x, dim=a, keepdim=True) / 9,
    "round": lambda x, a, n: x + (x * 4).round().detach() / 9 - x.floor() / 9,
    "isnan": lambda x, a, n: torch.nan_to_num(x / (x > 0).to(x), 0.0, 0.5, -0.5),
    "foreach": lambda x, a, n: torch._foreach_mul([x, x], 2.0)[1],
    "polar": lambda x, a, n: torch.polar(x.abs() + 1, x).imag,
    "rot90": lambda x, a, n: torch.rot90(x, 2, [0, a]) if a else x.cos(),
    "block": lambda x, a, n: torch.hstack([x, x]).split(x.size(1), 1)[0] if x.dim() > 1 else x,
    "vmap": lambda x, a, n: torch.vmap(torch.tanh, in_dims=a, out_dims=a)(x),
    "cdist": lambda x, a, n: x + torch.cdist(x, x).mean(-1, keepdim=True) if x.dim() > 1 else x,
    "out": lambda x, a, n: torch.add(x, 1, out=torch.empty_like(x)),
    "multi": lambda x, a, n: x.sin().cos_().mul_(x).clamp_min_(0.1),
    "reduce": lambda x, a, n: x - torch.amax(x, (0, a), keepdim=True) if a else x.erf(),
}


class Operation(Step):
    """One of many, along any axis but the batch's."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.name = pick(*OPERATIONS)
        axis = pick(*[a for a in form.axes if a != "b"])
        if form.size(axis) < 3:
            raise UnfitError("short")
        self.axis = form.at(axis)

    def forward(self, x: Tensor) -> Tensor:
        return OPERATIONS[self.name](x, self.axis, x.size(self.axis))


class Escape(Step):
    """Values leave the tensor, and come back as another."""

    def draw(self, pick: Pick, form: Form) -> None:
        self.how = pick.of(
            "numpy, list, data, tensor, new tensor, deepcopy, file, item, storage, buffer, "
            "attribute"
        )
        self.layer, self.moved = nn.Linear(form.channels, 5), Moved(pick, form, -1)
        self.register_buffer("kept", torch.zeros(1))
        self.form = form.resized(c=5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.escaped(x.detach()) + x * 0.5
        return self.moved.back(self.layer(self.moved.there(y)))

    def escaped(self, x: Tensor) -> Tensor:
        if self.how == "numpy":
            return torch.from_numpy(x.numpy() * 2)
        if self.how == "list":
            return torch.tensor(x.tolist(), dtype=x.dtype)
        if self.how == "data":
            return x.data * 2
        if self.how == "tensor":
            return torch.as_tensor(x).clone()
        if self.how == "new tensor":
            return x.new_tensor(x.tolist())
        if self.how == "deepcopy":
            return copy.deepcopy(x)
        if self.how == "file":
            file = io.BytesIO()
            torch.save(x, file)
            file.seek(0)
            return torch.load(file)
        if self.how == "item":
            return x * float(x.mean()) + x.flatten()[0].item()
        if self.how == "storage":
            return (
                torch.tensor(x.contiguous().untyped_storage(), dtype=torch.uint8)
                .view(x.dtype)
                .view(x.shape)
                if x.is_contiguous() and not x.storage_offset()
                else x
            )
        if self.how == "buffer":
            self.kept = x.mean(-1)
            return x * self.kept.unsqueeze(-1)
        self.found = x * 2
        return self.found


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


class ByHand(nn.Module):
    """A norm that torch.fx can trace."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(noise(width, near=1))
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return (y - y.mean(-1, keepdim=True)) * self.gain


class Compiled(Step):
    """Code that something else wrote, or a layer that something else changed."""

    def draw(self, pick: Pick, form: Form) -> None:
        c, how = form.channels, pick.of("fx, script, trace, pruned, functional, stateless, swapped")
        self.how, self.moved = how, Moved(pick, form, -1)
        layer: Any = ByHand(c) if how in ("fx", "functional", "stateless") else nn.Linear(c, 6)
        if how == "fx":
            layer = torch.fx.symbolic_trace(layer)
        elif how == "script":
            layer = torch.jit.script(layer)
        elif how == "trace":
            layer = torch.jit.trace(layer, torch.zeros(1, c))
        elif how == "pruned":
            prune.random_unstructured(layer, "weight", 0.3)
        self.layer = layer
        self.more = nn.Parameter(noise(c))
        width = 6 if isinstance(layer, nn.Linear) or how in ("script", "trace") else c
        self.form = form.resized(c=width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moved.there(x)
        if self.how == "functional":
            y = torch.func.functional_call(self.layer, {"gain": self.more}, (x,))
        elif self.how == "stateless":
            state = {name: p * 0.5 for name, p in self.layer.named_parameters()}
            y = torch.func.functional_call(self.layer, state, (x,))
        elif self.how == "swapped":
            y = functional.linear(x, *[p.sin() for p in self.layer.parameters()])
        else:
            y = self.layer(x)
        return self.moved.back(y)


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
