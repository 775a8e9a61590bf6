"""Attention as people write it: by hand and fused, with heads of every sort."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from people_cases import Part, case, frames, gain, weight
from torch import Tensor, nn
from torch.nn import functional as F

LAST = (2, 7, 4)
WIDE, HEADS = 24, 4


class Block(nn.Module):
    """A transformer block around an attention: (B, N, 4) -> (B, 3)."""

    def __init__(self, attention: nn.Module, wide: int = WIDE) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, wide), nn.LayerNorm(wide)
        self.attention, self.norm2 = attention, nn.LayerNorm(wide)
        self.up, self.down, self.head = nn.Linear(wide, 32), nn.Linear(32, wide), nn.Linear(wide, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        return self.head((x + self.down(F.gelu(self.up(self.norm2(x))))).mean(1))


def projections(*names: str, wide: int = WIDE, **made: int) -> dict[str, nn.Module]:
    """Linear layers of one width, or of another where it is given."""
    return {name: nn.Linear(wide, made.get(name, wide)) for name in (*names, *made)}


def block(forward: Callable[..., Tensor], **held: Any) -> nn.Module:
    return Block(Part(forward, **held))


def split(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return x.view(x.size(0), x.size(1), heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """The reverse."""
    return x.transpose(1, 2).reshape(x.size(0), x.size(2), -1)


ALL = ("q", "k", "v", "o")

# -- by hand --------------------------------------------------------------------------------------


@case("attention", "cut", LAST, share=0.8)
def attention_by_products() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        return n.o(joined((q @ k.transpose(-2, -1) * n.scale).softmax(-1) @ v))

    return block(forward, **projections(*ALL), heads=HEADS, scale=6**-0.5)


@case("attention", "cut", LAST, share=0.8)
def attention_with_a_scale_of_the_present_width() -> nn.Module:
    """The square root of a number that follows the tensor: exact only where heads go whole."""

    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, n.d)).transpose(1, 2) for f in (n.q, n.k, n.v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1))
        return n.o(joined(torch.softmax(scores, dim=-1) @ v))

    return block(forward, **projections(*ALL), d=6)


@case("attention", "cut", LAST, share=0.8)
def attention_by_einsum() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).reshape(b, t, n.heads, -1) for f in (n.q, n.k, n.v))
        a = torch.einsum("bihd,bjhd->bhij", q, k).mul(0.4).softmax(-1)
        return n.o(torch.einsum("bhij,bjhd->bihd", a, v).reshape(b, t, -1))

    return block(forward, **projections(*ALL), heads=HEADS)


@case("attention", "cut", LAST, share=0.8)
def attention_by_batched_products() -> nn.Module:
    """Heads lie along the batch (fairseq)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            f(x).view(b, t, n.heads, 6).transpose(1, 2).reshape(b * n.heads, t, 6)
            for f in (n.q, n.k, n.v)
        )
        a = torch.bmm(q * 0.4, k.transpose(1, 2)).softmax(-1)
        y = torch.bmm(a, v).view(b, n.heads, t, 6).transpose(1, 2).reshape(b, t, -1)
        return n.o(y)

    return block(forward, **projections(*ALL), heads=HEADS)


@case("attention", "cut", LAST, share=0.8)
def attention_of_one_head() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.o((n.q(x) @ n.k(x).mT).softmax(-1) @ n.v(x))

    return block(forward, **projections(*ALL))


@case("attention", "cut", LAST, share=0.8)
def attention_with_sigmoids() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), 4) for f in (n.q, n.k, n.v))
        return n.o(joined(torch.sigmoid(q @ k.mT - 2.0) @ v))

    return block(forward, **projections(*ALL))


@case("attention", "cut", LAST, share=0.8)
def attention_with_an_additive_mask() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), 4) for f in (n.q, n.k, n.v))
        t = x.size(1)
        scores = (q @ k.mT * 0.4).masked_fill(n.mask[:t, :t] == 0, float("-inf"))
        return n.o(joined(F.dropout(scores.softmax(-1), 0.1, n.training) @ v))

    return block(forward, **projections(*ALL), mask=torch.ones(16, 16).tril())


@case("attention", "cut", LAST, share=0.8)
def attention_with_a_table_of_relative_positions() -> nn.Module:
    """One bias for each head and distance (Swin, T5)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        t = x.size(1)
        bias = n.table[n.index[:t, :t].reshape(-1)].view(t, t, -1).permute(2, 0, 1)
        return n.o(joined((q @ k.mT * n.scale + bias[None]).softmax(-1) @ v))

    index = torch.arange(9)[:, None] - torch.arange(9)[None] + 8
    held = {"table": weight(17, HEADS), "index": index, "heads": HEADS, "scale": 0.4}
    return block(forward, **projections(*ALL), **held)


@case("attention", "cut", LAST, share=0.7)
def attention_with_a_table_of_relative_positions_and_whole_heads() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        qkv = n.qkv(x).reshape(b, t, 3, -1, 6).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        bias = n.bias(n.index[:t, :t]).permute(2, 0, 1)
        return n.o(joined((q @ k.mT * 0.4 + bias).softmax(-1) @ v))

    index = (torch.arange(9)[:, None] - torch.arange(9)[None]).abs()
    held = {"bias": nn.Embedding(9, HEADS), "index": index}
    return block(forward, **projections("o", qkv=72), **held)


@case("attention", "cut", LAST, share=0.8)
def attention_with_a_scale_for_each_head() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scale = n.scale.clamp(max=4.6).exp()
        return n.o(joined((q @ k.mT * scale).softmax(-1) @ v))

    return block(forward, **projections(*ALL), heads=HEADS, scale=gain(HEADS, 1, 1))


@case("attention", "cut", LAST, share=0.6)
def talking_heads() -> nn.Module:
    """Scores of heads are mixed by a matrix before and after the softmax."""

    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), 4) for f in (n.q, n.k, n.v))
        scores = n.before((q @ k.mT * 0.4).permute(0, 2, 3, 1)).softmax(-2)
        return n.o(joined(n.after(scores).permute(0, 3, 1, 2) @ v))

    return block(forward, **projections(*ALL), before=nn.Linear(4, 4), after=nn.Linear(4, 4))


@case("attention", "cut", LAST, share=0.6)
def talking_heads_by_a_convolution() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), 4) for f in (n.q, n.k, n.v))
        return n.o(joined(n.mix((q @ k.mT * 0.4).softmax(-1)) @ v))

    return block(forward, **projections(*ALL), mix=nn.Conv2d(4, 4, 1))


@case("attention", "cut", LAST, share=0.8)
def attention_biased_by_distance() -> nn.Module:
    """A slope for each head, as a buffer (ALiBi)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), 4) for f in (n.q, n.k, n.v))
        place = torch.arange(x.size(1), dtype=x.dtype)
        bias = -n.slopes.view(-1, 1, 1) * (place[:, None] - place[None]).abs()
        return n.o(joined((q @ k.mT * 0.4 + bias).softmax(-1) @ v))

    return block(forward, **projections(*ALL), slopes=2.0 ** -torch.arange(1, 5).double())


# -- torch's own function -------------------------------------------------------------------------


@case("attention", "cut", LAST, share=0.8)
def fused_attention_with_a_kept_number_of_heads() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        return n.o(joined(F.scaled_dot_product_attention(q, k, v)))

    return block(forward, **projections(*ALL), heads=HEADS)


@case("attention", "cut", LAST, share=0.8)
def fused_attention_with_a_number_in_its_code() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (-1, 6)).transpose(1, 2) for f in (n.q, n.k, n.v))
        return n.o(joined(F.scaled_dot_product_attention(q, k, v)))

    return block(forward, **projections(*ALL))


@case("attention", "cut", LAST, share=0.8)
def fused_attention_with_a_fixed_scale() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), 4) for f in (n.q, n.k, n.v))
        return n.o(joined(F.scaled_dot_product_attention(q, k, v, scale=0.3)))

    return block(forward, **projections(*ALL))


@case("attention", "cut", LAST, share=0.8)
def fused_causal_attention() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        y = F.scaled_dot_product_attention(
            query=q, key=k, value=v, attn_mask=None, dropout_p=0.0, is_causal=True
        )
        return n.o(joined(y))

    return block(forward, **projections(*ALL), heads=HEADS)


@case("attention", "cut", LAST, share=0.8)
def fused_attention_with_a_mask() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        mask = torch.ones(x.size(1), x.size(1), dtype=torch.bool).tril(2)
        return n.o(joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))

    return block(forward, **projections(*ALL), heads=HEADS)


@case("attention", "cut", LAST, share=0.8, partly=True)
def fused_attention_with_a_bias_for_each_head() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        bias = n.bias[:, : x.size(1), : x.size(1)]
        return n.o(joined(F.scaled_dot_product_attention(q, k, v, bias)))

    return block(forward, **projections(*ALL), heads=HEADS, bias=weight(HEADS, 9, 9))


@case("attention", "cut", LAST, share=0.8)
def fused_attention_with_keys_of_its_own() -> nn.Module:
    """Learned keys and values before the others (memory)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        k = torch.cat([n.memory_k.expand(len(x), -1, -1), n.k(x)], 1)
        v = torch.cat([n.memory_v.expand(len(x), -1, -1), n.v(x)], 1)
        q, k, v = (split(y, 4) for y in (n.q(x), k, v))
        return n.o(joined(F.scaled_dot_product_attention(q, k, v)))

    return block(
        forward, **projections(*ALL), memory_k=weight(1, 2, WIDE), memory_v=weight(1, 2, WIDE)
    )


@case("attention", "cut", LAST, (2, 5, 6), share=0.7)
def cross_attention() -> nn.Module:
    def forward(n: Any, x: Tensor, other: Tensor) -> Tensor:
        q, k, v = split(n.q(n.into(x)), 4), split(n.k(other), 4), split(n.v(other), 4)
        return n.head(n.o(joined(F.scaled_dot_product_attention(q, k, v))) + n.into(x))

    held = projections("q", "o") | {"k": nn.Linear(6, WIDE), "v": nn.Linear(6, WIDE)}
    return Part(forward, into=nn.Linear(4, WIDE), head=nn.Linear(WIDE, 3), **held)


@case("attention", "cut", LAST, (2, 5, 6), share=0.7)
def cross_attention_with_one_projection_of_keys_and_values() -> nn.Module:
    def forward(n: Any, x: Tensor, other: Tensor) -> Tensor:
        q = split(n.q(x), n.heads)
        k, v = n.kv(other).chunk(2, dim=-1)
        a = (q @ split(k, n.heads).mT * 0.4).softmax(-1)
        return n.o(joined(a @ split(v, n.heads)))

    held = {"q": nn.Linear(4, WIDE), "kv": nn.Linear(6, 2 * WIDE), "o": nn.Linear(WIDE, 3)}
    return Part(forward, heads=HEADS, **held)


# -- fewer heads of keys and values ---------------------------------------------------------------


def grouped(repeat: Callable[[Tensor, int], Tensor] | None, pairs: int = 2) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, n.d).transpose(1, 2) for f in (n.q, n.k, n.v))
        if repeat is None:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = repeat(k, q.size(1) // k.size(1)), repeat(v, q.size(1) // v.size(1))
            y = F.scaled_dot_product_attention(q, k, v)
        return n.o(joined(y))

    return block(forward, **projections("q", "o", k=6 * pairs, v=6 * pairs), d=6)


@case("attention", "cut", LAST, share=0.7)
def grouped_queries() -> nn.Module:
    return grouped(None)


@case("attention", "cut", LAST, share=0.7)
def grouped_queries_by_repeating() -> nn.Module:
    return grouped(lambda x, times: x.repeat_interleave(times, dim=1))


@case("attention", "cut", LAST, share=0.7)
def grouped_queries_by_expanding() -> nn.Module:
    def repeated(x: Tensor, times: int) -> Tensor:
        b, heads, t, d = x.shape
        return x[:, :, None].expand(b, heads, times, t, d).reshape(b, heads * times, t, d)

    return grouped(repeated)


@case("attention", "cut", LAST, share=0.7)
def grouped_queries_by_a_kept_number() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = n.q(x).view(b, t, n.num_heads, n.head_dim).transpose(1, 2)
        k = n.k(x).view(b, t, n.num_kv_heads, n.head_dim).transpose(1, 2)
        v = n.v(x).view(b, t, n.num_kv_heads, n.head_dim).transpose(1, 2)
        k, v = (y.repeat_interleave(n.num_heads // n.num_kv_heads, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        return n.o(y.reshape(b, t, n.num_heads * n.head_dim))

    numbers = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6}
    return block(forward, **projections("q", "o", k=12, v=12), **numbers)


@case("attention", "cut", LAST, share=0.6)
def one_head_of_keys_for_all_queries() -> nn.Module:
    return grouped(lambda x, times: x.expand(-1, times, -1, -1), pairs=1)


@case("attention", "cut", LAST, share=0.6)
def one_head_of_keys_by_broadcasting() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q = split(n.q(x), 4)
        k, v = n.k(x)[:, None], n.v(x)[:, None]
        return n.o(joined((q @ k.mT * 0.4).softmax(-1) @ v))

    return block(forward, **projections("q", "o", k=6, v=6))


# -- one projection -------------------------------------------------------------------------------


def fused(parts: Callable[[Any, Tensor], Any], **numbers: Any) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = parts(n, x)
        return n.o(joined(F.scaled_dot_product_attention(q, k, v)))

    return block(forward, **projections("o", qkv=3 * WIDE), **numbers)


@case("attention", "cut", LAST, share=0.8)
def one_projection_reshaped_with_a_literal() -> nn.Module:
    return fused(
        lambda n, x: n.qkv(x).reshape(*x.shape[:2], 3, -1, 6).permute(2, 0, 3, 1, 4).unbind(0)
    )


@case("attention", "cut", LAST, share=0.8)
def one_projection_reshaped_with_kept_numbers() -> nn.Module:
    def parts(n: Any, x: Tensor) -> Any:
        b, t, _ = x.shape
        return n.qkv(x).reshape(b, t, 3, n.num_heads, n.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    return fused(parts, num_heads=4, head_dim=6)


@case("attention", "cut", LAST, share=0.8)
def one_projection_reshaped_by_the_width_of_its_input() -> nn.Module:
    """The residual width and that of the heads are one."""

    def parts(n: Any, x: Tensor) -> Any:
        b, t, c = x.shape
        return n.qkv(x).reshape(b, t, 3, n.heads, c // n.heads).permute(2, 0, 3, 1, 4).unbind(0)

    return fused(parts, heads=4)


@case("attention", "cut", LAST, share=0.8)
def one_projection_reshaped_and_written_back_by_the_width() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, c = x.shape
        qkv = n.qkv(x).reshape(b, t, 3, n.num_heads, c // n.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q * n.scale) @ k.transpose(-2, -1)
        return n.o((attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, t, c))

    return block(forward, **projections("o", qkv=3 * WIDE), num_heads=4, scale=6**-0.5)


@case("attention", "cut", LAST, share=0.8)
def one_projection_in_chunks() -> nn.Module:
    return fused(lambda n, x: [split(y, n.heads) for y in n.qkv(x).chunk(3, dim=-1)], heads=4)


@case("attention", "cut", LAST, share=0.8)
def one_projection_in_chunks_of_whole_heads() -> nn.Module:
    return fused(
        lambda n, x: [y.unflatten(-1, (-1, 6)).transpose(1, 2) for y in n.qkv(x).chunk(3, -1)]
    )


@case("attention", "cut", LAST, share=0.8)
def one_projection_split_by_a_kept_width() -> nn.Module:
    return fused(
        lambda n, x: [split(y, n.heads) for y in n.qkv(x).split(n.n_embd, dim=2)],
        heads=4,
        n_embd=WIDE,
    )


@case("attention", "cut", LAST, share=0.8)
def one_projection_with_heads_outermost() -> nn.Module:
    """(heads, 3, width) along the axis (BLOOM, Megatron)."""

    def parts(n: Any, x: Tensor) -> Any:
        b, t, _ = x.shape
        y = n.qkv(x).view(b, t, n.heads, 3, n.d)
        return [y[..., i, :].transpose(1, 2) for i in range(3)]

    return fused(parts, heads=4, d=6)


@case("attention", "cut", LAST, share=0.8)
def one_projection_in_thirds_of_each_head() -> nn.Module:
    """(heads, 3 x width): each head is cut in three (GPT-NeoX)."""

    def parts(n: Any, x: Tensor) -> Any:
        y = n.qkv(x).view(*x.shape[:2], n.heads, -1)
        return [z.transpose(1, 2) for z in y.chunk(3, dim=-1)]

    return fused(parts, heads=4)


@case("attention", "cut", LAST, share=0.8)
def one_projection_sliced_by_numbers() -> nn.Module:
    def parts(n: Any, x: Tensor) -> Any:
        y = n.qkv(x)
        parts = y[..., : n.c], y[..., n.c : 2 * n.c], y[..., 2 * n.c :]
        return [split(z, 4) for z in parts]

    return fused(parts, c=WIDE)


@case("attention", "cut", LAST, share=0.6)
def one_projection_of_unequal_parts() -> nn.Module:
    """Four heads of queries, two of keys and of values, by a list of sizes."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = n.qkv(x).split([n.h * n.d, n.kv * n.d, n.kv * n.d], dim=-1)
        q = q.view(b, t, n.h, n.d).transpose(1, 2)
        k, v = (y.view(b, t, n.kv, n.d).transpose(1, 2) for y in (k, v))
        return n.o(joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))

    return block(forward, **projections("o", qkv=48), h=4, kv=2, d=6)


@case("attention", "cut", LAST, share=0.6)
def queries_apart_and_keys_with_values() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _c = x.shape
        q = n.q(x).reshape(b, t, n.heads, 6).permute(0, 2, 1, 3)
        kv = n.kv(n.norm(x[:, ::2])).reshape(b, -1, 2, n.heads, 6).permute(2, 0, 3, 1, 4)
        return n.o(joined((q @ kv[0].mT * 0.4).softmax(-1) @ kv[1]))

    return block(forward, **projections("q", "o", kv=48), norm=nn.LayerNorm(WIDE), heads=4)


# -- rotations ------------------------------------------------------------------------------------


def turned(x: Tensor) -> Tensor:
    one, two = x.chunk(2, dim=-1)
    return torch.cat((-two, one), dim=-1)


def angles(time: int, wide: int, x: Tensor) -> Tensor:
    steps = 100.0 ** -(torch.arange(0, wide, 2, dtype=x.dtype) / wide)
    return torch.arange(time, dtype=x.dtype)[:, None] * steps


def rotary(turn: Callable[[Any, Tensor], Tensor], **held: Any) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, n.d)).transpose(1, 2) for f in (n.q, n.k, n.v))
        return n.o(joined(F.scaled_dot_product_attention(turn(n, q), turn(n, k), v)))

    return block(forward, **projections(*ALL), d=6, **held)


@case("attention", "cut", LAST, share=0.8)
def rotated_halves() -> nn.Module:
    def turn(n: Any, x: Tensor) -> Tensor:
        a = angles(x.size(-2), n.d, x)
        a = torch.cat([a, a], -1)
        return x * a.cos() + turned(x) * a.sin()

    return rotary(turn)


@case("attention", "cut", LAST, share=0.8)
def rotated_pairs() -> nn.Module:
    def turn(n: Any, x: Tensor) -> Tensor:
        a = angles(x.size(-2), n.d, x).repeat_interleave(2, -1)
        other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * a.cos() + other * a.sin()

    return rotary(turn)


@case("attention", "cut", LAST, share=0.8)
def rotated_as_complex_numbers() -> nn.Module:
    def turn(n: Any, x: Tensor) -> Tensor:
        a = angles(x.size(-2), n.d, x)
        phase = torch.polar(torch.ones_like(a), a)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * phase).flatten(-2)

    return rotary(turn)


@case("attention", "cut", LAST, share=0.8)
def rotated_by_buffers() -> nn.Module:
    def turn(n: Any, x: Tensor) -> Tensor:
        t = x.size(-2)
        return x * n.cos[:t] + turned(x) * n.sin[:t]

    a = angles(16, 6, torch.zeros(1, dtype=torch.float64)).repeat(1, 2)
    return rotary(turn, cos=a.cos(), sin=a.sin())


@case("attention", "cut", LAST, share=0.8)
def rotated_in_part() -> nn.Module:
    """The first four channels of each head only (GPT-J, Phi)."""

    def turn(n: Any, x: Tensor) -> Tensor:
        one, rest = x[..., :4], x[..., 4:]
        a = angles(x.size(-2), 4, x).repeat(1, 2)
        return torch.cat([one * a.cos() + turned(one) * a.sin(), rest], -1)

    return rotary(turn)


@case("attention", "cut", LAST, share=0.8)
def norms_of_queries_and_keys() -> nn.Module:
    return rotary(lambda n, x: n.norm(x) * 2, norm=nn.LayerNorm(6))


@case("attention", "cut", LAST, share=0.8)
def norms_of_queries_and_keys_of_kept_heads() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        return n.o(joined(F.scaled_dot_product_attention(n.nq(q), n.nk(k), v)))

    return block(forward, **projections(*ALL), heads=4, nq=nn.RMSNorm(6), nk=nn.RMSNorm(6))


@case("attention", "cut", LAST, share=0.8)
def norms_of_queries_and_keys_before_the_split() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(y, n.heads) for y in (n.nq(n.q(x)), n.nk(n.k(x)), n.v(x)))
        return n.o(joined(F.scaled_dot_product_attention(q, k, v)))

    norms = {"nq": nn.LayerNorm(WIDE), "nk": nn.LayerNorm(WIDE)}
    return block(forward, **projections(*ALL), heads=4, **norms)


# -- other forms ----------------------------------------------------------------------------------


@case("attention", "cut", LAST, share=0.7, partly=True)
def linear_attention() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        z = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(2)) + 1e-6)
        kv = torch.einsum("bhnd,bhne->bhde", k, v)
        return n.o(joined(torch.einsum("bhnd,bhde,bhn->bhne", q, kv, z)))

    return block(forward, **projections(*ALL), heads=4)


@case("attention", "cut", LAST, share=0.7, partly=True)
def efficient_attention() -> nn.Module:
    """Softmax of queries over channels and of keys over time."""

    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        return n.o(joined(q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)))

    return block(forward, **projections(*ALL), heads=4)


@case("attention", "safe", LAST)
def attention_of_channels_to_channels() -> nn.Module:
    """Cross-covariance (XCiT, Restormer)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), n.heads).transpose(2, 3) for f in (n.q, n.k, n.v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        y = (q @ k.mT * n.temperature).softmax(-1) @ v
        return n.o(y.permute(0, 3, 1, 2).flatten(2))

    return block(forward, **projections(*ALL), heads=4, temperature=gain(4, 1, 1))


@case("attention", "cut", LAST, share=0.7)
def additive_attention() -> nn.Module:
    """Bahdanau's: a small network scores each pair."""

    def forward(n: Any, x: Tensor) -> Tensor:
        pairs = torch.tanh(n.q(x)[:, :, None] + n.k(x)[:, None])
        return n.o(n.score(pairs).squeeze(-1).softmax(-1) @ n.v(x))

    return block(forward, **projections(*ALL), score=nn.Linear(WIDE, 1))


@case("attention", "cut", LAST, share=0.7)
def attention_with_an_output_gate() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(f(x), 4) for f in (n.q, n.k, n.v))
        return n.o(joined(F.scaled_dot_product_attention(q, k, v)) * n.gate(x).sigmoid())

    return block(forward, **projections(*ALL, "gate"))


@case("attention", "cut", LAST, share=0.7)
def pooled_by_a_learned_query() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q = n.query.expand(len(x), -1, -1)
        return n.o(F.scaled_dot_product_attention(q, n.k(x), n.v(x))).expand_as(x)

    return block(forward, **projections("k", "v", "o"), query=weight(1, 1, WIDE))


@case("attention", "cut", (2, 8, 4), share=0.7)
def attention_in_windows() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, c = x.shape
        y = x.view(b, t // 2, 2, c).reshape(-1, 2, c)
        q, k, v = n.qkv(y).reshape(-1, 2, 3, n.heads, 6).permute(2, 0, 3, 1, 4)
        y = joined((q @ k.mT * 0.4).softmax(-1) @ v)
        return n.o(y).view(b, t, -1)

    return block(forward, **projections("o", qkv=72), heads=4)


@case("attention", "cut", (2, 4, 4, 4), share=0.6)
def attention_in_shifted_windows_of_a_map() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.into(x).roll((-1, -1), (1, 2))
        b, h, w, c = x.shape
        y = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = (f(y).view(-1, 4, n.heads, c // n.heads).transpose(1, 2) for f in (n.q, n.k, n.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 2, 2, c)
        y = y.view(b, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)
        return n.head(x + n.o(y).roll((1, 1), (1, 2)))

    held = {"into": nn.Linear(4, WIDE), "head": nn.Linear(WIDE, 3), "heads": 4}
    return Part(forward, **projections(*ALL), **held)


@case("attention", "cut", (2, 5, 6, 4), share=0.7)
def attention_along_two_axes_in_turn() -> nn.Module:
    def along(n: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (n.heads, -1)).transpose(-2, -3) for f in (n.q, n.k, n.v))
        return n.o(F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))

    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.into(x)
        x = x + n.rows(x)
        return n.head(x + n.columns(x.transpose(1, 2)).transpose(1, 2))

    made = {name: Part(along, **projections(*ALL), heads=4) for name in ("rows", "columns")}
    return Part(forward, into=nn.Linear(4, WIDE), head=nn.Linear(WIDE, 3), **made)


@case("attention", "cut", (2, 1, 8, 8), share=0.6)
def attention_over_the_places_of_a_map() -> nn.Module:
    """Convolutions make queries, keys and values; a gain that begins at zero (SAGAN)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.into(x)
        q, k, v = n.q(x).flatten(2), n.k(x).flatten(2), n.v(x).flatten(2)
        a = torch.bmm(q.transpose(1, 2), k).softmax(-1)
        y = torch.bmm(v, a.transpose(1, 2)).view_as(x)
        return n.head(n.gamma * y + x)

    held = {"into": nn.Conv2d(1, 8, 3), "q": nn.Conv2d(8, 4, 1), "k": nn.Conv2d(8, 4, 1)}
    held |= {"v": nn.Conv2d(8, 8, 1), "head": nn.Conv2d(8, 2, 1)}
    return Part(forward, gamma=gain(1), **held)


@case("attention", "cut", (2, 1, 8, 8), share=0.6)
def non_local_block() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.into(x)
        b, c = len(x), n.inter
        theta = n.theta(x).view(b, c, -1).permute(0, 2, 1)
        phi, g = n.phi(x).view(b, c, -1), n.g(x).view(b, c, -1).permute(0, 2, 1)
        a = theta @ phi
        y = (a / a.size(-1)) @ g
        return n.head(x + n.back(y.permute(0, 2, 1).contiguous().view(b, c, *x.shape[2:])))

    held = {name: nn.Conv2d(8, 4, 1) for name in ("theta", "phi", "g")}
    held |= {"into": nn.Conv2d(1, 8, 3), "back": nn.Conv2d(4, 8, 1), "head": nn.Conv2d(8, 2, 1)}
    return Part(forward, inter=4, **held)


@case("attention", "cut", (2, 1, 8, 8), share=0.6)
def attention_with_fewer_places_of_keys() -> nn.Module:
    """Keys and values from a strided convolution (PVT, SegFormer)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.into(x)
        b, c, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        q = n.q(y).reshape(b, h * w, n.heads, c // n.heads).permute(0, 2, 1, 3)
        small = n.norm(n.shrink(x).reshape(b, c, -1).permute(0, 2, 1))
        k, v = n.kv(small).reshape(b, -1, 2, n.heads, c // n.heads).permute(2, 0, 3, 1, 4)
        y = (y + n.o(joined((q @ k.mT * 0.4).softmax(-1) @ v))).transpose(1, 2)
        return n.head(y.reshape(b, c, h, w))

    held: dict[str, Any] = {"into": nn.Conv2d(1, 8, 3, padding=1), "shrink": nn.Conv2d(8, 8, 2, 2)}
    held |= {"q": nn.Linear(8, 8), "kv": nn.Linear(8, 16), "o": nn.Linear(8, 8), "heads": 2}
    return Part(forward, norm=nn.LayerNorm(8), head=nn.Conv2d(8, 2, 1), **held)


@case("attention", "cut", LAST, share=0.7)
def retention() -> nn.Module:
    """A decay for each head, a group norm of heads behind, and a gate."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (split(f(x), n.heads) for f in (n.q, n.k, n.v))
        place = torch.arange(t, dtype=x.dtype)
        gap = place[:, None] - place[None]
        decay = torch.where(gap >= 0, n.decay.view(-1, 1, 1) ** gap.clamp(min=0), 0.0)
        y = (q @ k.mT * 0.4 * decay) @ v
        y = n.norm(joined(y).reshape(b * t, -1)).view(b, t, -1)
        return n.o(F.silu(n.gate(x)) * y)

    decay = 1 - 2.0 ** -torch.arange(2, 6).double()
    norm = nn.GroupNorm(4, WIDE, affine=False)
    return block(forward, **projections(*ALL, "gate"), heads=4, decay=decay, norm=norm)


@case("attention", "cut", LAST, share=0.8)
def attention_of_torch() -> nn.Module:
    layer = nn.MultiheadAttention(WIDE, 4, batch_first=True)
    return block(lambda n, x: n.layer(x, x, x)[0], layer=layer)


@case("attention", "cut", LAST, share=0.8)
def encoder_layers_of_torch() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDE, 4, 32, batch_first=True, norm_first=True)
    return frames(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), width=WIDE)


@case("attention", "cut", LAST, (2, 5, 4), share=0.8)
def decoder_layer_of_torch() -> nn.Module:
    def forward(n: Any, x: Tensor, memory: Tensor) -> Tensor:
        return n.head(n.layer(n.a(x), n.b(memory)))

    layer = nn.TransformerDecoderLayer(WIDE, 4, 32, batch_first=True)
    return Part(
        forward, layer=layer, a=nn.Linear(4, WIDE), b=nn.Linear(4, WIDE), head=nn.Linear(WIDE, 3)
    )


@case("attention", "cut", LAST, share=0.7)
def latents_that_read_the_input() -> nn.Module:
    """A few learned vectors attend to the frames, frame by frame (Perceiver)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        latents = n.latents.unsqueeze(0).repeat(len(x), 1, 1)
        q, k, v = split(n.q(latents), 4), split(n.k(x), 4), split(n.v(x), 4)
        latents = latents + n.o(joined(F.scaled_dot_product_attention(q, k, v)))
        return n.norm(latents).mean(1, keepdim=True).expand_as(x)

    held = {"latents": weight(3, WIDE), "norm": nn.LayerNorm(WIDE)}
    return block(forward, **projections(*ALL), **held)
