"""Norms and gates over channels as people write them, in every layout."""

from __future__ import annotations

from typing import Any

import torch
from people_cases import Part, case, frames, gain, images, waves
from torch import Tensor, nn
from torch.nn import functional as F

LAST = (2, 7, 4)
IMAGE = (2, 1, 8, 8)


# -- root mean square and lengths -----------------------------------------------------------------


def rms(axis: int, *shape: int, one_plus: bool = False) -> Part:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = x * torch.rsqrt((x * x).mean(axis, keepdim=True) + 1e-5)
        return y * (1 + n.weight) if one_plus else n.weight * y

    return Part(forward, weight=gain(*shape))


@case("norms", "cut", LAST)
def rms_over_the_last_axis() -> nn.Module:
    return frames(rms(-1, 8))


@case("norms")
def rms_over_the_first_axis() -> nn.Module:
    return waves(rms(1, 8, 1))


@case("norms", "cut", IMAGE)
def rms_of_a_map() -> nn.Module:
    return images(rms(1, 1, 8, 1, 1))


@case("norms", "cut", LAST)
def rms_with_one_plus_its_weight() -> nn.Module:
    return frames(rms(-1, 8, one_plus=True))


@case("norms", "cut", (2, 3, 5, 4))
def rms_of_four_axes_channels_last() -> nn.Module:
    return frames(rms(-1, 8))


@case("norms", "cut", (6, 4))
def rms_of_two_axes() -> nn.Module:
    return frames(rms(-1, 8))


@case("norms", "cut", (4,))
def rms_without_a_batch_axis() -> nn.Module:
    return frames(rms(-1, 8))


class Llama(nn.Module):
    """In single precision inside, its own dtype outside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = gain(width), 1e-6

    def forward(self, states: Tensor) -> Tensor:
        kind = states.dtype
        states = states.to(torch.float64)
        variance = states.pow(2).mean(-1, keepdim=True)
        states = states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * states.to(kind)


@case("norms", "cut", LAST)
def rms_in_another_precision() -> nn.Module:
    return frames(Llama(8))


@case("norms", "cut", LAST)
def rms_by_vector_norm_and_a_kept_scale() -> nn.Module:
    """The square root of the width is a float of its own: the same in both."""
    return frames(
        Part(lambda n, x: F.normalize(x, dim=-1) * n.scale * n.g, scale=8**0.5, g=gain(8))
    )


@case("norms", "safe", LAST)
def rms_by_vector_norm_and_the_size() -> nn.Module:
    return frames(
        Part(lambda n, x: x / (x.norm(2, -1, keepdim=True) * x.shape[-1] ** -0.5) * n.g, g=gain(8))
    )


@case("norms", "cut", LAST)
def rms_as_root_of_the_mean() -> nn.Module:
    return frames(
        Part(
            lambda n, x: x / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-8) * n.g,
            g=gain(8),
        )
    )


@case("norms", "cut", IMAGE)
def pixel_norm() -> nn.Module:
    return images(lambda x: x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8))


@case("norms")
def length_over_channels_by_sums() -> nn.Module:
    return waves(lambda x: x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())


@case("norms", "cut", LAST)
def length_by_linalg_norm() -> nn.Module:
    return frames(lambda x: x / (torch.linalg.norm(x, dim=-1, keepdim=True) + 1e-3))


@case("norms")
def length_of_order_one() -> nn.Module:
    return waves(lambda x: x / (x.abs().sum(dim=1, keepdim=True) + 1))


@case("norms")
def highest_length() -> nn.Module:
    return waves(lambda x: x / (torch.linalg.vector_norm(x, float("inf"), 1, keepdim=True) + 1))


@case("norms", "cut", IMAGE)
def normalised_over_places() -> nn.Module:
    return images(lambda x: F.normalize(x.flatten(2), dim=2).view_as(x))


@case("norms", "cut", IMAGE)
def normalised_over_channels() -> nn.Module:
    return images(lambda x: F.normalize(x, dim=1) * 3)


@case("norms", "cut", LAST)
def length_with_a_single_gain() -> nn.Module:
    return frames(Part(lambda n, x: n.g * x / (x.norm(dim=-1, keepdim=True) + 1e-5), g=gain(1)))


# -- mean and variance ----------------------------------------------------------------------------


def moments(axes: Any, *shape: int, biased: bool = True) -> Part:
    def forward(n: Any, x: Tensor) -> Tensor:
        mean = x.mean(axes, keepdim=True)
        variance = x.var(axes, keepdim=True, unbiased=not biased)
        return (x - mean) / torch.sqrt(variance + 1e-5) * n.weight + n.bias

    return Part(forward, weight=gain(*shape), bias=gain(*shape))


@case("norms")
def moments_over_channels_first() -> nn.Module:
    return waves(moments(1, 1, 8, 1))


@case("norms", "cut", LAST)
def moments_over_channels_last() -> nn.Module:
    return frames(moments(-1, 8))


@case("norms", "cut", LAST)
def moments_with_an_unbiased_variance() -> nn.Module:
    return frames(moments(-1, 8, biased=False))


@case("norms")
def moments_over_everything() -> nn.Module:
    return waves(moments((1, 2), 8, 1))


@case("norms", "cut", IMAGE)
def moments_over_everything_of_a_map() -> nn.Module:
    return images(moments([1, 2, 3], 8, 1, 1))


@case("norms", "cut", IMAGE)
def moments_over_channels_and_rows() -> nn.Module:
    return images(moments((1, 3), 1, 8, 1, 1))


@case("norms", "cut", IMAGE)
def moments_of_each_channel() -> nn.Module:
    return images(moments((2, 3), 8, 1, 1))


@case("norms", "cut", (2, 3, 5, 4))
def moments_over_the_last_two_of_four_axes() -> nn.Module:
    return frames(moments((-2, -1), 8))


@case("norms")
def moments_by_two_means_in_a_row() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True).mean(2, keepdim=True)
        power = (x - mean).pow(2).mean(2, keepdim=True).mean(1, keepdim=True)
        return n.gamma * (x - mean) / (power + 1e-8).sqrt() + n.beta

    return waves(Part(forward, gamma=gain(1, 8, 1), beta=gain(1, 8, 1)))


@case("norms")
def moments_by_var_mean() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, (1, 2), correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(var + 1e-6) * n.g[:, None] + n.b[:, None]

    return waves(Part(forward, g=gain(8), b=gain(8)))


@case("norms", "cut", LAST)
def moments_by_std_mean() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, -1, keepdim=True)
        return (x - mean) / (std + 1e-6) * n.g

    return frames(Part(forward, g=gain(8)))


@case("norms", "cut", LAST)
def moments_by_mean_of_squares() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        mean, square = x.mean(-1, keepdim=True), (x**2).mean(-1, keepdim=True)
        return (x - mean) / (square - mean**2 + 1e-5).sqrt() * n.g

    return frames(Part(forward, g=gain(8)))


@case("norms")
def moments_turned_round() -> nn.Module:
    """Channels last inside, first outside, with a matrix for a bias."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 1)
        x = (x - x.mean(2, True)) / (x.std(2, keepdim=True, unbiased=False) + 1e-4)
        return (x * n.gain + n.shift).permute(0, 2, 1)

    return waves(Part(forward, gain=gain(8), shift=gain(1, 1, 8)))


@case("norms", "cut", IMAGE)
def group_norm_by_views() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        parts = x.view(len(x), 2, -1)
        mean, var = parts.mean(-1, keepdim=True), parts.var(-1, keepdim=True)
        return ((parts - mean) / (var + 1e-5).sqrt()).view(x.shape) * n.g + n.b

    return images(Part(forward, g=gain(1, 8, 1, 1), b=gain(1, 8, 1, 1)))


@case("norms")
def centred_only() -> nn.Module:
    return waves(lambda x: x - x.mean(1, keepdim=True))


@case("norms", "cut", IMAGE)
def filter_response_norm() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        power = x.pow(2).mean((2, 3), keepdim=True)
        return torch.maximum(n.gamma * x * (power + n.eps.abs()).rsqrt() + n.beta, n.tau)

    shape = (1, 8, 1, 1)
    made = {name: gain(*shape) for name in ("gamma", "beta", "tau")}
    return images(Part(forward, eps=nn.Parameter(torch.tensor([1e-4])), **made))


@case("norms", "cut", IMAGE)
def frozen_statistics_of_a_map() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        weight, bias = n.weight.reshape(1, -1, 1, 1), n.bias.reshape(1, -1, 1, 1)
        var, mean = n.running_var.reshape(1, -1, 1, 1), n.running_mean.reshape(1, -1, 1, 1)
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)

    names = ("weight", "bias", "running_mean", "running_var")
    return images(Part(forward, **{name: torch.rand(8) + 0.5 for name in names}))


@case("norms", "cut", LAST)
def whitened_by_buffers() -> nn.Module:
    return frames(
        Part(lambda n, x: (x - n.mean) / n.std, mean=torch.rand(8), std=torch.rand(8) + 1)
    )


@case("norms")
def cumulative_moments_by_means() -> nn.Module:
    """Each frame by the frames before it."""

    def forward(n: Any, x: Tensor) -> Tensor:
        count = torch.arange(1, x.size(-1) + 1, dtype=x.dtype)
        mean = x.mean(1, keepdim=True).cumsum(-1) / count
        power = x.pow(2).mean(1, keepdim=True).cumsum(-1) / count
        return (x - mean) / (power - mean**2 + 1e-3).clamp(min=1e-3).sqrt() * n.g + n.b

    return waves(Part(forward, g=gain(1, 8, 1), b=gain(1, 8, 1)))


@case("norms", "safe")
def cumulative_moments_by_sums_and_the_width() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        wide, time = x.size(1), x.size(2)
        count = torch.arange(wide, wide * (time + 1), wide, dtype=x.dtype).view(1, 1, -1)
        mean = x.sum(1, keepdim=True).cumsum(-1) / count
        return (x - mean) * n.g

    return waves(Part(forward, g=gain(1, 8, 1)))


@case("norms", "cut", (2, 7, 7, 4))
def response_norm_channels_last() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        length = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        relative = length / (length.mean(dim=-1, keepdim=True) + 1e-6)
        return n.gamma * (x * relative) + n.beta + x

    return frames(Part(forward, gamma=gain(1, 1, 1, 8), beta=gain(1, 1, 1, 8)))


@case("norms", "cut", IMAGE)
def response_norm_channels_first() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        length = x.norm(2, (2, 3), keepdim=True)
        return x * (length / (length.mean(1, keepdim=True) + 1e-6)) * n.g + x

    return images(Part(forward, g=gain(8, 1, 1)))


@case("norms", "safe", IMAGE)
def local_response_norm() -> nn.Module:
    return images(nn.LocalResponseNorm(3))


# -- torch's functions with parameters of their own -----------------------------------------------


@case("norms", "cut", LAST)
def functional_layer_norm() -> nn.Module:
    return frames(Part(lambda n, x: F.layer_norm(x, x.shape[-1:], n.w, n.b), w=gain(8), b=gain(8)))


@case("norms", "cut", LAST)
def functional_layer_norm_of_a_kept_width() -> nn.Module:
    return frames(Part(lambda n, x: F.layer_norm(x, n.shape, n.w), shape=(8,), w=gain(8)))


@case("norms", "cut", LAST)
def functional_layer_norm_without_weights() -> nn.Module:
    return frames(lambda x: F.layer_norm(x, (x.size(-1),), eps=1e-6))


@case("norms", "cut", LAST)
def functional_rms_norm() -> nn.Module:
    return frames(Part(lambda n, x: F.rms_norm(x, (x.size(-1),), n.w, 1e-6), w=gain(8)))


@case("norms")
def functional_group_norm() -> nn.Module:
    return waves(Part(lambda n, x: F.group_norm(x, 2, n.w, n.b), w=gain(8), b=gain(8)))


@case("norms")
def functional_group_norm_of_one_group() -> nn.Module:
    return waves(Part(lambda n, x: F.group_norm(x, 1, n.w, n.b, 1e-8), w=gain(8), b=gain(8)))


@case("norms", "cut", IMAGE)
def functional_instance_norm() -> nn.Module:
    return images(Part(lambda n, x: F.instance_norm(x, weight=n.w, bias=n.b), w=gain(8), b=gain(8)))


@case("norms", "cut", IMAGE)
def functional_batch_norm() -> nn.Module:
    held = {"m": torch.rand(8), "v": torch.rand(8) + 1, "w": gain(8), "b": gain(8)}
    return images(Part(lambda n, x: F.batch_norm(x, n.m, n.v, n.w, n.b, n.training), **held))


@case("norms", "safe", IMAGE)
def functional_batch_norm_of_one_layer_with_the_statistics_of_another() -> nn.Module:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.w, self.b = nn.BatchNorm2d(8, affine=False), gain(8), gain(8)

        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.w, self.b)

    return images(Split())


# -- subclasses of torch's layers -----------------------------------------------------------------


class MapNorm(nn.LayerNorm):
    """Over the channels of a map, by turning it (timm, ConvNeXt)."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, 1e-6)
        return y.permute(0, 3, 1, 2)


class ActedNorm(nn.BatchNorm2d):
    """With an activation behind (timm)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return self.act(self.drop(x))


class WrappedNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float().to(x.dtype) if x.dtype is torch.half else x)


class TurnedGroups(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Residual(nn.InstanceNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class OnePlus(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class Unbatched(nn.BatchNorm1d):
    """(B, N, C): rows become a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view(*x.shape)


@case("norms", "cut", IMAGE)
def layer_norm_of_a_map() -> nn.Module:
    return images(MapNorm(8))


@case("norms", "cut", IMAGE)
def batch_norm_with_an_activation() -> nn.Module:
    return images(ActedNorm(8))


@case("norms", "cut", LAST)
def layer_norm_that_wraps_its_parent() -> nn.Module:
    return frames(WrappedNorm(8))


@case("norms", "cut", LAST)
def group_norm_channels_last() -> nn.Module:
    return frames(TurnedGroups(2, 8))


@case("norms")
def instance_norm_with_a_residual() -> nn.Module:
    return waves(Residual(8, affine=True))


@case("norms", "cut", LAST)
def layer_norm_with_one_plus_its_weight() -> nn.Module:
    return frames(OnePlus(8))


@case("norms", "cut", LAST)
def batch_norm_of_rows() -> nn.Module:
    return frames(Unbatched(8))


@case("norms", "cut", LAST)
def batch_norm_turned_round() -> nn.Module:
    return frames(Part(lambda n, x: n.bn(x.transpose(1, 2)).transpose(1, 2), bn=nn.BatchNorm1d(8)))


@case("norms", "cut", LAST)
def rms_norm_of_torch() -> nn.Module:
    return frames(nn.RMSNorm(8, eps=1e-6))


@case("norms", "cut", LAST)
def rms_norm_of_torch_without_weights() -> nn.Module:
    return frames(nn.RMSNorm(8, elementwise_affine=False))


@case("norms")
def rms_norm_of_torch_over_two_axes() -> nn.Module:
    return waves(nn.RMSNorm((8, 18)), width=8)


@case("norms", "cut", IMAGE)
def synchronised_batch_norm() -> nn.Module:
    return images(nn.SyncBatchNorm(8))


@case("norms")
def synchronised_batch_norm_of_waves() -> nn.Module:
    return waves(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(8)))


@case("norms", "cut", (2, 5, 6, 4))
def layer_norm_over_frequencies_and_channels() -> nn.Module:
    return frames(nn.LayerNorm((6, 8)))


@case("norms", "cut", (2, 5, 6, 4))
def layer_norm_over_channels_and_frequencies() -> nn.Module:
    return frames(
        Part(lambda n, x: n.norm(x.transpose(2, 3)).transpose(2, 3), norm=nn.LayerNorm([8, 6]))
    )


@case("norms")
def layer_norm_over_channels_and_time() -> nn.Module:
    return waves(nn.LayerNorm((8, 18), elementwise_affine=False))


@case("norms", "cut", IMAGE)
def instance_norm_with_statistics() -> nn.Module:
    return images(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))


@case("norms", "cut", LAST)
def a_norm_for_each_condition() -> nn.Module:
    """Gain and shift are computed from the input (adaptive layer norm)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        shift, scale = n.condition(x.mean(1, keepdim=True)).chunk(2, -1)
        return n.norm(x) * (1 + scale) + shift

    norm = nn.LayerNorm(8, elementwise_affine=False)
    return frames(Part(forward, norm=norm, condition=nn.Linear(8, 16)))


@case("norms", "cut", LAST)
def dynamic_tanh() -> nn.Module:
    held = {"alpha": nn.Parameter(torch.tensor([0.5])), "w": gain(8), "b": gain(8)}
    return frames(Part(lambda n, x: torch.tanh(n.alpha * x) * n.w + n.b, **held))


@case("norms", "cut", LAST)
def layer_scale() -> nn.Module:
    return frames(Part(lambda n, x: x + n.gamma * n.inner(x), gamma=gain(8), inner=nn.Linear(8, 8)))


# -- gates and statistics over channels -----------------------------------------------------------


def excite(n: Any, x: Tensor) -> Tensor:
    return x * n.up(n.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


@case("gates", "cut", IMAGE)
def squeeze_and_excite() -> nn.Module:
    return images(Part(excite, down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1)))


@case("gates")
def squeeze_and_excite_by_linear_layers() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, c, _ = x.size()
        return x * n.fc(x.mean(2).view(b, c)).view(b, c, 1)

    fc = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8), nn.Sigmoid())
    return waves(Part(forward, fc=fc))


@case("gates", "cut", IMAGE)
def spatial_gate_from_mean_and_maximum() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(n.mix(both))

    return images(Part(forward, mix=nn.Conv2d(2, 1, 3, padding=1)))


@case("gates", "safe", IMAGE)
def efficient_channel_attention() -> nn.Module:
    """A convolution along the channels: each reads its neighbours."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = x.mean((2, 3))[:, None]
        return x * n.mix(y).sigmoid().transpose(1, 2)[..., None]

    return images(Part(forward, mix=nn.Conv1d(1, 1, 3, padding=1)))


@case("gates")
def gate_from_the_mean() -> nn.Module:
    return waves(lambda x: x * x.mean(1, keepdim=True).sigmoid())


@case("gates", "cut", LAST)
def gate_from_the_mean_channels_last() -> nn.Module:
    return frames(lambda x: x * torch.sigmoid(torch.mean(x, -1, keepdim=True)))


@case("gates")
def gate_from_the_maximum() -> nn.Module:
    return waves(lambda x: x * x.amax(1, keepdim=True).sigmoid())


@case("gates")
def gate_from_the_minimum() -> nn.Module:
    return waves(lambda x: x + torch.min(x, dim=1, keepdim=True).values)


@case("gates")
def gate_from_the_deviation() -> nn.Module:
    return waves(lambda x: x * x.std(1, keepdim=True))


@case("gates")
def gate_from_the_variance() -> nn.Module:
    return waves(lambda x: x / (1 + torch.var(x, dim=1, keepdim=True, unbiased=False)))


@case("gates")
def softmax_over_channels() -> nn.Module:
    return waves(lambda x: x.softmax(1))


@case("gates", "cut", LAST)
def softmax_over_channels_last() -> nn.Module:
    return frames(lambda x: F.softmax(x, dim=-1) * x)


@case("gates", "cut", LAST)
def softmax_layer_over_channels() -> nn.Module:
    return frames(nn.Softmax(dim=-1))


@case("gates", "safe", LAST)
def log_softmax_over_channels() -> nn.Module:
    return frames(lambda x: F.log_softmax(x, dim=-1))


@case("gates", "safe", LAST)
def sum_over_channels() -> nn.Module:
    return frames(lambda x: x * x.sum(-1, keepdim=True).sigmoid())


@case("gates", "safe", LAST)
def argmax_over_channels() -> nn.Module:
    return frames(lambda x: x * x.argmax(-1, keepdim=True))


@case("gates", "safe", LAST)
def highest_channels_only() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        return torch.where(x >= x.topk(3, -1)[0][..., -1:], x, 0.0)

    return frames(forward)


@case("gates", "safe", LAST)
def channels_in_order_of_size() -> nn.Module:
    return frames(lambda x: x.sort(-1)[0])


@case("gates", "cut", LAST)
def similarity_of_frames() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x * F.cosine_similarity(x[:, 1:2], x[:, :1], dim=-1)[..., None]

    return frames(Part(forward))


@case("gates")
def similarity_with_a_second_branch() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x * torch.cosine_similarity(x, n.other(x), dim=1)[:, None]

    return waves(Part(forward, other=nn.Conv1d(8, 8, 1)))


@case("gates", "cut", LAST)
def similarity_of_normalised_frames() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = F.normalize(x, dim=-1)
        return (y @ y.transpose(1, 2)) @ x

    return frames(forward)


@case("gates", "safe", LAST)
def distances_of_frames() -> nn.Module:
    return frames(lambda x: torch.cdist(x, x) @ x)


@case("gates", "safe")
def gram_matrix_of_channels() -> nn.Module:
    return waves(lambda x: (x @ x.transpose(1, 2)).tanh() @ x)


@case("gates", "cut", IMAGE)
def selective_kernels() -> nn.Module:
    """Two branches, weighed for each channel by a softmax over the branches."""

    def forward(n: Any, x: Tensor) -> Tensor:
        both = torch.stack([n.a(x), n.b(x)], 1)
        s = n.squeeze(both.sum(1).mean((2, 3)))
        scores = torch.stack([n.to_a(s), n.to_b(s)], 1).softmax(1)
        return (both * scores[..., None, None]).sum(1)

    held = {"a": nn.Conv2d(8, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 1)}
    held |= {"squeeze": nn.Linear(8, 4), "to_a": nn.Linear(4, 8), "to_b": nn.Linear(4, 8)}
    return images(Part(forward, **held))


@case("gates", "cut", IMAGE)
def split_attention() -> nn.Module:
    """Radix two: halves of the channels compete (ResNeSt)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        parts = torch.split(x, c // 2, 1)
        gap = n.down(sum(parts).mean((2, 3), keepdim=True)).relu()
        scores = n.up(gap).view(b, 1, 2, -1).transpose(1, 2).softmax(1).reshape(b, -1, 1, 1)
        return sum(a * p for a, p in zip(scores.split(c // 2, 1), parts, strict=True))

    held = {"down": nn.Conv2d(4, 3, 1), "up": nn.Conv2d(3, 8, 1)}
    return images(Part(forward, **held), left=4)


@case("gates", "cut", IMAGE)
def coordinate_attention() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        y = n.act(n.norm(n.down(torch.cat([rows, columns], 2))))
        r, c = torch.split(y, [x.size(2), x.size(3)], 2)
        return x * n.rows(r).sigmoid() * n.columns(c.permute(0, 1, 3, 2)).sigmoid()

    held = {"down": nn.Conv2d(8, 4, 1), "norm": nn.BatchNorm2d(4), "act": nn.Hardswish()}
    return images(Part(forward, rows=nn.Conv2d(4, 8, 1), columns=nn.Conv2d(4, 8, 1), **held))


@case("gates", "cut", IMAGE)
def global_context() -> nn.Module:
    """A softmax over places of one score each (GCNet)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        scores = n.score(x).flatten(2).softmax(-1).unsqueeze(-1)
        context = (x.flatten(2).unsqueeze(1) @ scores).squeeze(1)[..., None]
        return x + n.up(n.norm(n.down(context)).relu())

    held = {"score": nn.Conv2d(8, 1, 1), "down": nn.Conv2d(8, 4, 1), "up": nn.Conv2d(4, 8, 1)}
    return images(Part(forward, norm=nn.LayerNorm([4, 1, 1]), **held))


@case("gates")
def highway() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        gate = n.gate(x).sigmoid()
        return gate * n.change(x) + (1 - gate) * x

    return waves(Part(forward, gate=nn.Conv1d(8, 8, 1), change=nn.Conv1d(8, 8, 1)))


@case("gates")
def snake() -> nn.Module:
    return waves(Part(lambda n, x: x + (n.a * x).sin().pow(2) / (n.a + 1e-6), a=gain(1, 8, 1)))


@case("gates")
def maxout() -> nn.Module:
    return waves(lambda x: x.unflatten(1, (-1, 2)).max(2)[0], left=4)


@case("gates", "cut", IMAGE)
def attention_pooling_over_places() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return (y * n.score(y).softmax(-1)).sum(-1)[..., None, None].expand_as(x)

    return images(Part(forward, score=nn.Conv1d(8, 1, 1)))


@case("gates", "cut", IMAGE)
def generalised_mean_pooling() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = x.clamp(min=1e-6).pow(n.p).mean((-2, -1), keepdim=True).pow(1.0 / n.p)
        return y + x

    return images(Part(forward, p=nn.Parameter(torch.tensor([3.0]))))


@case("gates", "cut", IMAGE)
def channel_dropout() -> nn.Module:
    return images(nn.Dropout2d(0.5))


@case("gates")
def statistics_pooling() -> nn.Module:
    """Mean and deviation over time, side by side (x-vectors)."""

    def forward(x: Tensor) -> Tensor:
        return torch.cat([x.mean(2), x.std(2)], 1)[..., None].expand(-1, -1, 5)

    return waves(forward, left=16)
