"""Steps that normalise, by modules, by functions and by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import Form, Moved, Pick, Step, UnfitError, held, hold, moments, noise

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
