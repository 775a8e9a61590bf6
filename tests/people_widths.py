"""Widths that are numbers, channels that are split and joined, and layers along other axes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from people_cases import Part, case, frames, gain, images, waves, weight
from torch import Tensor, nn
from torch.nn import functional as F

LAST = (2, 7, 4)
IMAGE = (2, 1, 8, 8)


# -- numbers --------------------------------------------------------------------------------------


@case("numbers", "cut", LAST)
def states_of_a_kept_width() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.rnn(x, torch.zeros(1, len(x), n.hidden_size, dtype=x.dtype))[0]

    return frames(Part(forward, rnn=nn.GRU(8, 6, batch_first=True), hidden_size=6), left=6)


@case("numbers", "cut", LAST)
def states_of_a_kept_width_of_both_kinds() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h = x.new_zeros(2 * n.layers, x.size(0), n.hidden)
        c = x.new_zeros(2 * n.layers, x.size(0), n.hidden)
        return n.rnn(x, (h, c))[0]

    rnn = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
    return frames(Part(forward, rnn=rnn, hidden=6, layers=2), left=12)


@case("numbers")
def viewed_by_a_kept_width() -> nn.Module:
    return waves(Part(lambda n, x: x.view(-1, n.c, x.size(-1)).sin(), c=8))


@case("numbers", "cut", LAST)
def reshaped_by_a_kept_width() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.mix(x.reshape(-1, n.dim)).reshape(x.size(0), x.size(1), n.dim)

    return frames(Part(forward, mix=nn.Linear(8, 8), dim=8))


@case("numbers", "cut", LAST)
def flattened_by_a_product_of_numbers() -> nn.Module:
    """(B, N, C) -> (B, N x C): both sizes are kept."""

    def forward(n: Any, x: Tensor) -> Tensor:
        return n.back(n.into(x.reshape(-1, n.time * n.width))).view(-1, n.time, n.width)

    held = {"into": nn.Linear(56, 10), "back": nn.Linear(10, 56), "time": 7, "width": 8}
    return frames(Part(forward, **held))


@case("numbers")
def numbers_in_a_tuple() -> nn.Module:
    return waves(Part(lambda n, x: x.reshape(len(x), *n.shape).tanh(), shape=(8, -1)))


@case("numbers", "cut", LAST)
def numbers_in_a_list() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = torch.split(n.two(x), n.sizes, dim=-1)
        return n.a(a) + n.b(b)

    held = {"two": nn.Linear(8, 10), "a": nn.Linear(6, 8), "b": nn.Linear(4, 8)}
    return frames(Part(forward, sizes=[6, 4], **held))


@case("numbers", "safe", LAST)
def numbers_in_a_namespace() -> nn.Module:
    config = SimpleNamespace(width=8, name="small")
    return frames(Part(lambda n, x: x.view(*x.shape[:-1], n.config.width).sin(), config=config))


@dataclass
class Config:
    hidden: int = 8
    depth: int = 2


@case("numbers", "safe", LAST)
def numbers_in_a_dataclass() -> nn.Module:
    return frames(Part(lambda n, x: x.reshape(-1, x.size(1), n.cfg.hidden).tanh(), cfg=Config()))


@case("numbers", "safe", LAST)
def numbers_in_a_dictionary() -> nn.Module:
    return frames(Part(lambda n, x: x.view(-1, x.size(1), n.cfg["d"]).tanh(), cfg={"d": 8}))


@case("numbers", "safe", LAST)
def a_number_in_the_code() -> nn.Module:
    return frames(Part(lambda n, x: x.view(-1, 7, 8).tanh()))


@case("numbers")
def a_width_that_is_checked() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        assert x.size(1) == n.channels, f"{n.channels} channels wanted"
        return x * 2

    return waves(Part(forward, channels=8))


@case("numbers", "cut", LAST)
def a_width_that_is_a_property() -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        @property
        def width(self) -> int:
            return self.layer.out_features

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).view(len(x), -1, self.width)

    return frames(Own())


@case("numbers", "cut", LAST)
def a_width_read_from_a_weight() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.mix(x).reshape(len(x), -1, n.mix.weight.size(0))

    return frames(Part(forward, mix=nn.Linear(8, 6)), left=6)


@case("numbers", "cut", LAST)
def half_of_a_kept_width() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x[..., : n.half] * x[..., n.half :].sigmoid()

    return frames(Part(forward, half=4), left=4)


@case("numbers", "cut", LAST)
def half_of_a_width_by_division() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x[..., : n.dim // 2] * x[..., n.dim // 2 :].sigmoid()

    return frames(Part(forward, dim=8), left=4)


@case("numbers", "cut", (2, 1, 20))
def zeros_of_a_kept_width_in_front() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), n.width, 3, dtype=x.dtype), x], 2)

    return waves(Part(forward, width=8))


@case("numbers", "cut", LAST)
def heads_and_their_width_kept() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = x.view(*x.shape[:2], n.heads, n.width).softmax(-2)
        return y.reshape(*x.shape[:2], n.heads * n.width)

    return frames(Part(forward, heads=2, width=4))


@case("numbers")
def groups_of_a_kept_number() -> nn.Module:
    """ShuffleNet's shuffle."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, c, t = x.size()
        return x.view(b, n.groups, c // n.groups, t).transpose(1, 2).reshape(b, c, t)

    return waves(Part(forward, groups=2))


@case("numbers", "cut", IMAGE)
def channels_for_each_group() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.view(b, n.width, c // n.width, h, w).permute(0, 2, 1, 3, 4)
        return y.flatten(1, 2)

    return images(Part(forward, width=4))


@case("numbers", "cut", (2, 7), tokens=11)
def positions_of_a_kept_width() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.table(x)
        return y + n.places(torch.arange(x.size(1))).view(1, -1, n.width)

    part = Part(forward, table=nn.Embedding(11, 8), places=nn.Embedding(9, 8), width=8)
    return nn.Sequential(part, nn.Linear(8, 3))


@case("numbers", "safe", LAST)
def sine_positions_of_the_present_width() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        _b, t, c = x.shape
        rate = 100.0 ** (-torch.arange(0, c, 2, dtype=x.dtype) / c)
        angle = torch.arange(t, dtype=x.dtype)[:, None] * rate
        return x + torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :c]

    return frames(forward)


@case("numbers", "safe")
def scaled_by_the_present_width() -> nn.Module:
    return waves(lambda x: x / x.shape[1] ** 0.5)


@case("numbers", "safe", LAST)
def an_identity_of_the_present_width() -> nn.Module:
    return frames(lambda x: x @ (torch.eye(x.size(-1), dtype=x.dtype) * 2 - 0.1))


@case("numbers", "safe", IMAGE)
def a_ramp_over_the_channels() -> nn.Module:
    return images(lambda x: x * torch.linspace(0.5, 1, x.size(1)).view(1, -1, 1, 1).to(x))


# -- ties by shape --------------------------------------------------------------------------------


@case("ties", "cut", LAST)
def viewed_as_its_input() -> nn.Module:
    return frames(Part(lambda n, x: n.mix(x.flatten(0, 1)).view(x.shape), mix=nn.Linear(8, 8)))


@case("ties", "cut", LAST)
def viewed_like_its_input() -> nn.Module:
    return frames(Part(lambda n, x: n.mix(x).view_as(x), mix=nn.Linear(8, 8)))


@case("ties", "cut", IMAGE)
def reshaped_like_its_input() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.mix(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        return y.reshape(x.shape)

    return images(Part(forward, mix=nn.Linear(8, 8)))


@case("ties")
def expanded_like_another() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.cat([x, n.mix(x.mean(2, keepdim=True)).expand_as(x)], 1)

    return waves(Part(forward, mix=nn.Conv1d(8, 8, 1)), left=16)


@case("ties")
def expanded_to_a_size() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x + n.mix(x.mean(2, keepdim=True)).expand(-1, x.size(1), x.size(2))

    return waves(Part(forward, mix=nn.Conv1d(8, 8, 1)))


@case("ties")
def zeros_like_it() -> nn.Module:
    return waves(lambda x: torch.maximum(x, torch.zeros_like(x)) + torch.ones_like(x[..., :1]))


@case("ties")
def written_into_zeros_of_its_shape() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape)
        y[..., ::2] = x[..., ::2]
        return y + x.new_full(x.size(), 0.5)

    return waves(forward)


@case("ties")
def written_into_empty_memory() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        y.copy_(x)
        y[:, :, -1].zero_()
        return y.mul_(2)

    return waves(forward)


@case("ties")
def broadcast_tensors() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        a, b = torch.broadcast_tensors(x, x.mean(-1, keepdim=True))
        return torch.where(a > b, a, b)

    return waves(forward)


@case("ties", "cut", LAST)
def random_noise_of_its_shape() -> nn.Module:
    return frames(lambda x: x + 0.0 * torch.randn_like(x))


# -- halves, pairs, shuffles ----------------------------------------------------------------------


@case("halves")
def halves_by_slices() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        c = x.shape[1] // 2
        return x[:, :c] * x[:, c:].tanh()

    return waves(forward, left=4)


@case("halves", "cut", LAST)
def halves_by_negative_slices() -> nn.Module:
    return frames(lambda x: x[..., : -(x.size(-1) // 2)] + x[..., -(x.size(-1) // 2) :], left=4)


@case("halves", "cut", LAST)
def thirds_by_slices() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        c = x.size(-1) // 3
        return x[..., :c] * x[..., c : 2 * c].sigmoid() + x[..., 2 * c :]

    return frames(forward, width=9, left=3)


@case("halves", "cut", LAST)
def halves_by_narrow() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        c = x.size(-1) // 2
        return torch.narrow(x, -1, 0, c) - x.narrow(2, c, c)

    return frames(forward, left=4)


@case("halves")
def halves_by_chunk() -> nn.Module:
    return waves(lambda x: torch.mul(*x.chunk(2, dim=1)), left=4)


@case("halves", "cut", LAST)
def halves_by_unflatten() -> nn.Module:
    return frames(lambda x: x.unflatten(-1, (2, -1)).prod(-2), left=4)


@case("halves", "cut", LAST)
def gated_linear_unit() -> nn.Module:
    return frames(nn.Linear(8, 12), nn.GLU(dim=-1), left=6)


@case("halves", "cut", LAST)
def swish_gated_by_one_projection() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = n.up(x).tensor_split(2, dim=-1)
        return n.down(F.silu(a) * b)

    return frames(Part(forward, up=nn.Linear(8, 20), down=nn.Linear(10, 8)))


@case("halves")
def pairs_by_steps() -> nn.Module:
    return waves(lambda x: x[:, ::2] * x[:, 1::2], left=4)


@case("halves")
def pairs_by_steps_and_back() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        a, b = x[:, 0::2], x[:, 1::2]
        return torch.stack([a - b, a + b], 2).flatten(1, 2)

    return waves(forward)


@case("halves", "cut", LAST)
def pairs_as_complex_numbers() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        turn = torch.polar(torch.ones(x.size(1), 1), torch.arange(x.size(1))[:, None] * 0.3)
        return torch.view_as_real(z * turn.to(z)).flatten(-2)

    return frames(Part(forward))


@case("halves")
def halves_exchanged() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([b, a], 1)

    return waves(forward)


@case("halves")
def reversed_channels() -> nn.Module:
    return waves(lambda x: x.flip(1))


@case("halves", "cut", IMAGE)
def coupling_layer() -> nn.Module:
    """One half changes the other (RealNVP)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        shift, scale = n.net(a).chunk(2, 1)
        return torch.cat([a, b * scale.tanh().exp() + shift], 1)

    return images(Part(forward, net=nn.Conv2d(4, 8, 3, padding=1)))


@case("halves", "cut", IMAGE)
def half_of_the_channels_passed_on() -> nn.Module:
    """ShuffleNet V2."""

    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        y = torch.cat((a, n.branch(b)), dim=1)
        b, c, h, w = y.size()
        return y.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)

    branch = nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, 1, 1, groups=4)
    )
    return images(Part(forward, branch=branch))


@case("halves", "cut", IMAGE)
def ghost_module() -> nn.Module:
    """Half of the outputs are made from the other half, cheaply; the rest is cropped."""

    def forward(n: Any, x: Tensor) -> Tensor:
        one = n.primary(x)
        return torch.cat([one, n.cheap(one)], 1)[:, : n.out_channels]

    held = {"primary": nn.Conv2d(8, 5, 1), "cheap": nn.Conv2d(5, 5, 3, padding=1, groups=5)}
    return images(Part(forward, out_channels=10, **held), left=10)


@case("halves", "cut", IMAGE)
def scales_in_a_cascade() -> nn.Module:
    """Res2Net: parts of the channels, each reads the one before."""

    def forward(n: Any, x: Tensor) -> Tensor:
        parts = torch.split(x, x.size(1) // 4, 1)
        found = [parts[0]]
        for part, layer in zip(parts[1:], n.layers, strict=True):
            found.append(layer(part + found[-1]))
        return torch.cat(found, 1)

    return images(Part(forward, layers=nn.ModuleList(nn.Conv2d(2, 2, 3, 1, 1) for _ in range(3))))


@case("halves", "cut", IMAGE)
def cross_stage_partial() -> nn.Module:
    """YOLO's C2f: chunks in a list that grows."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = list(n.first(x).chunk(2, 1))
        y.extend(layer(y[-1]) for layer in n.layers)
        return n.last(torch.cat(y, 1))

    layers = nn.ModuleList(nn.Conv2d(4, 4, 3, 1, 1) for _ in range(2))
    return images(Part(forward, first=nn.Conv2d(8, 8, 1), layers=layers, last=nn.Conv2d(16, 8, 1)))


@case("halves", "cut", IMAGE)
def pixels_shuffled() -> nn.Module:
    return images(nn.PixelShuffle(2), left=2)


@case("halves", "cut", IMAGE)
def pixels_gathered() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)

    return images(forward, left=32)


@case("halves", "cut", IMAGE)
def patches_put_together() -> nn.Module:
    """(B, N, p x p x C) -> a map, by views."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.up(x.flatten(2).transpose(1, 2))
        b, _t, _ = y.shape
        y = y.view(b, 8, 8, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(b, -1, 16, 16)

    return images(Part(forward, up=nn.Linear(8, 12)), left=3)


@case("halves", "safe")
def channels_picked_by_number() -> nn.Module:
    return waves(lambda x: x[:, [0, 2, 5]], left=3)


@case("halves", "safe", LAST)
def the_first_channel_apart() -> nn.Module:
    """One channel is a score for the others."""
    return frames(lambda x: x[..., 1:] * x[..., :1].sigmoid(), left=7)


@case("halves", "safe", LAST)
def channels_rolled() -> nn.Module:
    return frames(lambda x: x + x.roll(1, -1))


@case("halves", "cut", IMAGE)
def channels_shifted_in_space() -> nn.Module:
    """Quarters of the channels move in four directions."""

    def forward(x: Tensor) -> Tensor:
        g = x.size(1) // 4
        parts = [x[:, i * g : (i + 1) * g] for i in range(4)]
        moved = [
            p.roll(s, d)
            for p, (s, d) in zip(parts, ((1, 2), (-1, 2), (1, 3), (-1, 3)), strict=True)
        ]
        return torch.cat(moved, 1)

    return images(forward)


# -- layers along other axes ----------------------------------------------------------------------


@case("other axes")
def linear_layer_over_time() -> nn.Module:
    return waves(Part(lambda n, x: x + n.mix(x.relu()), mix=nn.Linear(18, 18)))


@case("other axes")
def linear_layer_over_time_without_a_residual() -> nn.Module:
    return waves(nn.Linear(18, 12))


@case("other axes", "cut", LAST)
def mixer() -> nn.Module:
    """One network over places, one over channels."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = x + n.places(n.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + n.channels(n.norm2(x))

    places = nn.Sequential(nn.Linear(7, 5), nn.GELU(), nn.Linear(5, 7))
    channels = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
    norms = {"norm": nn.LayerNorm(8), "norm2": nn.LayerNorm(8)}
    return frames(Part(forward, places=places, channels=channels, **norms))


@case("other axes", "cut", LAST)
def spatial_gating_unit() -> nn.Module:
    """gMLP: half of the channels is projected over places and multiplied."""

    def forward(n: Any, x: Tensor) -> Tensor:
        u, v = n.up(x).chunk(2, -1)
        return n.down(u * n.places(n.norm(v).transpose(1, 2)).transpose(1, 2))

    held = {"up": nn.Linear(8, 12), "down": nn.Linear(6, 8), "places": nn.Linear(7, 7)}
    return frames(Part(forward, norm=nn.LayerNorm(6), **held))


@case("other axes", "cut", LAST)
def bare_matrix_over_places() -> nn.Module:
    return frames(Part(lambda n, x: x + torch.einsum("mn,bnc->bmc", n.w, x), w=weight(7, 7)))


@case("other axes", "cut", LAST)
def bare_matrix_on_the_left_of_places() -> nn.Module:
    return frames(Part(lambda n, x: n.w @ x, w=weight(5, 7)))


@case("other axes", "cut", LAST)
def fixed_averages_over_places() -> nn.Module:
    return frames(Part(lambda n, x: (n.a / n.a.sum(1, keepdim=True)) @ x, a=torch.rand(7, 7)))


@case("other axes", "cut", LAST)
def graph_convolution() -> nn.Module:
    """An adjacency from the frames themselves."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.embed(x)
        near = (y @ y.transpose(1, 2)).softmax(-1)
        return n.mix(near @ x).relu()

    return frames(Part(forward, embed=nn.Linear(8, 4), mix=nn.Linear(8, 8)))


@case("other axes", "cut", (2, 5, 6, 4))
def recurrent_layers_along_two_axes() -> nn.Module:
    """Dual path: chunks, then over chunks."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, s, k, c = x.shape
        y = n.intra(x.reshape(b * s, k, c))[0]
        x = x + n.fold(y).view(b, s, k, c)
        y = n.inter(x.transpose(1, 2).reshape(b * k, s, c))[0]
        return x + n.fold2(y).view(b, k, s, c).transpose(1, 2)

    held = {
        f"in{kind}"[2:]: nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        for kind in ("intra", "inter")
    }
    return frames(Part(forward, fold=nn.Linear(10, 8), fold2=nn.Linear(10, 8), **held))


@case("other axes", "cut", IMAGE)
def rows_and_columns_by_strips() -> nn.Module:
    held = {"a": nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8)}
    held |= {"b": nn.Conv2d(8, 8, (5, 1), padding=(2, 0), groups=8), "c": nn.Conv2d(8, 8, 1)}
    return images(Part(lambda n, x: x * n.c(n.b(n.a(x))), **held))


@case("other axes", "cut", IMAGE)
def frequencies_as_channels() -> nn.Module:
    """(B, C, F, T) -> (B, C x F, T) through a 1-D convolution and back."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, c, f, t = x.shape
        y = n.mix(x.reshape(b, c * f, t)).relu()
        return n.back(y).view(b, c, f, t)

    return images(Part(forward, mix=nn.Conv1d(64, 10, 1), back=nn.Conv1d(10, 64, 1)))


@case("other axes", "cut", IMAGE)
def frequencies_as_channels_last() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, c, f, t = x.shape
        y = n.rnn(x.permute(0, 3, 1, 2).flatten(2))[0]
        return x * n.mask(y).view(b, t, c, f).permute(0, 2, 3, 1).sigmoid()

    return images(Part(forward, rnn=nn.GRU(64, 6, batch_first=True), mask=nn.Linear(6, 64)))


@case("other axes", "cut", IMAGE)
def sub_bands_through_one_layer() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        bands = [layer(part) for layer, part in zip(n.layers, x.chunk(4, 2), strict=True)]
        return torch.cat(bands, 2)

    return images(Part(forward, layers=nn.ModuleList(nn.Conv2d(8, 6, 1) for _ in range(4))), left=6)


@case("other axes", "cut", IMAGE)
def sources_along_the_channels() -> nn.Module:
    """Two masks from one convolution, applied to one representation."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        masks = n.masks(x).view(b, 2, c, h, w).sigmoid()
        return (masks * x.unsqueeze(1)).flatten(0, 1)

    return images(Part(forward, masks=nn.Conv2d(8, 16, 1)))


@case("other axes", "cut", (6,))
def no_batch_axis() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))


@case("other axes", "cut", (1, 20), fixed_batch=True)
def waves_without_a_batch_axis() -> nn.Module:
    return waves(nn.ReLU(), nn.Conv1d(8, 8, 3))


@case("other axes", "cut", (20,))
def one_wave_of_one_axis() -> nn.Module:
    return Part(lambda n, x: n.body(x[None, None])[0], body=waves(nn.ReLU()))


@case("other axes", "cut", IMAGE)
def dense_block() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        found = [x]
        for layer in n.layers:
            found.append(layer(torch.cat(found, 1)).relu())
        return torch.cat(found, 1)

    layers = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(3))
    return images(Part(forward, layers=layers), left=20)


@case("other axes", "cut", IMAGE)
def pyramid() -> nn.Module:
    """Features of three sizes, added from the top."""

    def forward(n: Any, x: Tensor) -> Tensor:
        a = n.a(x)
        b = n.b(a)
        top = n.lateral_b(b)
        y = n.lateral_a(a) + F.interpolate(top, size=a.shape[-2:], mode="nearest")
        return y + F.max_pool2d(y, 3, 1, 1)

    held = {"a": nn.Conv2d(8, 8, 3, 2, 1), "b": nn.Conv2d(8, 12, 3, 2, 1)}
    held |= {"lateral_a": nn.Conv2d(8, 6, 1), "lateral_b": nn.Conv2d(12, 6, 1)}
    return images(Part(forward, **held), left=6)


@case("other axes", "cut", IMAGE)
def pools_of_many_sizes() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        size = x.shape[2:]
        found = [x, *(F.interpolate(n.mix(F.adaptive_avg_pool2d(x, s)), size) for s in (1, 2, 4))]
        return torch.cat(found, 1)

    return images(Part(forward, mix=nn.Conv2d(8, 4, 1)), left=20)


@case("other axes", "cut", IMAGE)
def residual_with_a_projection() -> nn.Module:
    """A bottleneck block and its shortcut."""

    def forward(n: Any, x: Tensor) -> Tensor:
        return (n.body(x) + n.shortcut(x)).relu_()

    body = nn.Sequential(
        *(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        *(nn.Conv2d(4, 4, 3, 2, 1, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 10, 1)),
    )
    shortcut = nn.Sequential(nn.Conv2d(8, 10, 1, 2), nn.BatchNorm2d(10))
    return images(Part(forward, body=body, shortcut=shortcut), left=10)


@case("other axes", "cut", IMAGE)
def inverted_residual_with_dropped_paths() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.body(x)
        if n.training and torch.rand(1) < 0.5:
            return x
        return x + n.gamma.view(1, -1, 1, 1) * y

    body = nn.Sequential(
        nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 8, 1)
    )
    return images(Part(forward, body=body, gamma=gain(8)))
