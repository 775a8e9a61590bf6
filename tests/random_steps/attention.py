"""Steps that attend."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .forms import WIDTHS, Form, Moved, Pick, Step, UnfitError, noise


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
