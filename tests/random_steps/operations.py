"""Steps that are one operation of torch along any axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .forms import Form, Pick, Step, UnfitError

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
