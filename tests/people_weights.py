"""Weights that are bare, computed, shared, or of a layer that people changed."""

from __future__ import annotations

import math
from typing import Any

import torch
from people_cases import Part, around, case, frames, gain, images, waves, weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

LAST = (2, 7, 4)
IMAGE = (2, 1, 8, 8)

# -- products with bare matrices ------------------------------------------------------------------


@case("bare weights", "cut", LAST)
def bare_linear_with_a_bias() -> nn.Module:
    return frames(Part(lambda n, x: F.linear(x, n.w, n.b), w=weight(6, 8), b=gain(6)), left=6)


@case("bare weights", "cut", LAST)
def bare_matrix_on_the_right() -> nn.Module:
    return frames(Part(lambda n, x: x @ n.w + n.b, w=weight(8, 6), b=gain(6)), left=6)


@case("bare weights", "cut", LAST)
def bare_matrix_turned() -> nn.Module:
    return frames(Part(lambda n, x: torch.matmul(x, n.w.t()), w=weight(6, 8)), left=6)


@case("bare weights")
def bare_matrix_on_the_left() -> nn.Module:
    return waves(Part(lambda n, x: torch.matmul(n.w, x), w=weight(6, 8)), left=6)


@case("bare weights", "cut", LAST)
def bare_einsum_channels_last() -> nn.Module:
    return frames(Part(lambda n, x: torch.einsum("...i,io->...o", x, n.w), w=weight(8, 6)), left=6)


@case("bare weights")
def bare_einsum_channels_first() -> nn.Module:
    return waves(Part(lambda n, x: torch.einsum("oc,bct->bot", n.w, x), w=weight(6, 8)), left=6)


@case("bare weights", "cut", IMAGE)
def bare_einsum_of_a_map() -> nn.Module:
    return images(Part(lambda n, x: torch.einsum("bchw,dc->bdhw", x, n.w), w=weight(6, 8)), left=6)


@case("bare weights", "cut", LAST)
def bare_einsum_that_turns_its_result() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.einsum("bnc,cd->bdn", x, n.w).transpose(1, 2)

    return frames(Part(forward, w=weight(8, 6)), left=6)


@case("bare weights", "cut", LAST)
def bare_tensordot() -> nn.Module:
    return frames(Part(lambda n, x: torch.tensordot(x, n.w, dims=1), w=weight(8, 6)), left=6)


class GroupedLinear(nn.Module):
    """Groups of channels by einsum (DeepFilterNet)."""

    def __init__(self, wide: int, left: int, groups: int) -> None:
        super().__init__()
        self.weight, self.groups = weight(groups, wide // groups, left // groups), groups

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        x = x.view(b, t, self.groups, -1)
        return torch.einsum("btgi,gih->btgh", x, self.weight).flatten(2, 3)


@case("bare weights", "cut", LAST)
def grouped_linear() -> nn.Module:
    return frames(GroupedLinear(8, 12, 4), left=12)


@case("bare weights", "cut", LAST)
def grouped_linear_by_batches() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b, t, c = x.shape
        y = x.reshape(b * t, 2, c // 2).transpose(0, 1)
        return torch.bmm(y, n.w).transpose(0, 1).reshape(b, t, -1)

    return frames(Part(forward, w=weight(2, 4, 3)), left=6)


@case("bare weights", "cut", LAST)
def heads_by_einsum() -> nn.Module:
    """A weight of three axes: width, heads, width of a head."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = torch.einsum("bnc,chd->bnhd", x, n.into)
        return torch.einsum("bnhd,hdc->bnc", y.relu(), n.back)

    return frames(Part(forward, into=weight(8, 2, 4), back=weight(2, 4, 8)))


class Gpt(nn.Module):
    """GPT-2's Conv1D: a linear layer with its weight turned."""

    def __init__(self, left: int, wide: int) -> None:
        super().__init__()
        self.nf, self.nx = left, wide
        self.weight, self.bias = weight(wide, left), gain(left)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


@case("bare weights", "cut", LAST)
def linear_of_gpt() -> nn.Module:
    return frames(Gpt(12, 8), nn.GELU(), Gpt(8, 12))


@case("bare weights", "cut", LAST)
def linear_of_gpt_halved() -> nn.Module:
    return frames(Gpt(12, 8), lambda x: torch.mul(*x.split(x.size(-1) // 2, 2)), left=6)


@case("bare weights", "cut", LAST)
def bare_baddbmm() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.baddbmm(n.b.expand(len(x), 1, -1), x, n.w.expand(len(x), -1, -1))

    return frames(Part(forward, w=weight(1, 8, 6), b=gain(1, 1, 6)), left=6)


@case("bare weights", "cut", LAST)
def bare_addmm_by_keywords() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.addmm(input=n.b, mat1=x.flatten(0, 1), mat2=n.w).unflatten(0, x.shape[:2])

    return frames(Part(forward, w=weight(8, 6), b=gain(6)), left=6)


@case("bare weights", "cut", LAST)
def low_rank_adapter() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.base(x) + (x @ n.a.T) @ n.b.T * n.scaling

    return frames(
        Part(forward, base=nn.Linear(8, 6), a=weight(2, 8), b=weight(6, 2), scaling=0.5), left=6
    )


@case("bare weights", "safe", LAST)
def product_of_two_bare_matrices() -> nn.Module:
    return frames(Part(lambda n, x: F.linear(x, n.a @ n.b), a=weight(6, 3), b=weight(3, 8)), left=6)


@case("bare weights", "safe", LAST)
def masked_bare_matrix() -> nn.Module:
    mask = (torch.arange(48).view(6, 8) % 3 > 0).double()
    return frames(Part(lambda n, x: F.linear(x, n.w * n.mask), w=weight(6, 8), mask=mask), left=6)


@case("bare weights", "cut", LAST)
def scaled_bare_matrix() -> nn.Module:
    """Equalised learning rate: the weight by a constant."""
    return frames(
        Part(lambda n, x: F.linear(x, n.w * n.scale, n.b), w=weight(6, 8), b=gain(6), scale=0.3),
        left=6,
    )


@case("bare weights", "cut", LAST)
def a_list_of_bare_matrices() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        for matrix in n.matrices:
            x = (x @ matrix).relu()
        return x

    return frames(Part(forward, matrices=nn.ParameterList([weight(8, 6), weight(6, 8)])))


@case("bare weights", "cut", LAST)
def a_dictionary_of_bare_matrices() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, n.held["up"], n.held["bias"]).relu(), n.held["down"])

    held = nn.ParameterDict({"up": weight(12, 8), "down": weight(8, 12), "bias": gain(12)})
    return frames(Part(forward, held=held))


@case("bare weights", "safe", LAST)
def experts_by_einsum() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        shares = n.router(x).softmax(-1)
        y = torch.einsum("bnd,edf->bnef", x, n.up).relu()
        return torch.einsum("bnef,efd,bne->bnd", y, n.down, shares)

    return frames(Part(forward, router=nn.Linear(8, 3), up=weight(3, 8, 5), down=weight(3, 5, 8)))


@case("bare weights", "safe", LAST)
def bilinear_layer() -> nn.Module:
    return frames(Part(lambda n, x: n.two(x, x), two=nn.Bilinear(8, 8, 8)))


@case("bare weights", "cut", LAST)
def bare_slopes() -> nn.Module:
    """``F.prelu`` wants channels on axis 1."""
    return frames(Part(lambda n, x: F.prelu(x.transpose(1, 2), n.w).transpose(1, 2), w=gain(8)))


@case("bare weights", "cut", (2, 7), tokens=11)
def bare_table() -> nn.Module:
    return nn.Sequential(
        Part(lambda n, x: F.embedding(x, n.table), table=weight(11, 8)), nn.Linear(8, 3)
    )


@case("bare weights", "cut", (2, 7), tokens=11)
def bare_table_that_is_also_the_head() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.mix(F.embedding(x, n.table)) @ n.table.T

    return Part(forward, table=weight(11, 8), mix=nn.Linear(8, 8))


# -- convolutions with bare kernels ---------------------------------------------------------------


@case("bare weights")
def bare_convolution() -> nn.Module:
    return waves(
        Part(lambda n, x: F.conv1d(x, n.w, n.b, padding=1), w=weight(6, 8, 3), b=gain(6)), left=6
    )


@case("bare weights", "cut", IMAGE)
def bare_convolution_of_a_map() -> nn.Module:
    return images(
        Part(lambda n, x: F.conv2d(input=x, weight=n.w, stride=1), w=weight(6, 8, 3, 3)), left=6
    )


@case("bare weights")
def bare_transposed_convolution() -> nn.Module:
    return waves(
        Part(lambda n, x: F.conv_transpose1d(x, n.w, n.b, stride=2), w=weight(8, 6, 2), b=gain(6)),
        left=6,
    )


@case("bare weights")
def bare_depthwise_convolution() -> nn.Module:
    return waves(
        Part(lambda n, x: F.conv1d(x, n.w, padding=1, groups=x.size(1)), w=weight(8, 1, 3))
    )


@case("bare weights")
def bare_depthwise_convolution_of_a_kept_width() -> nn.Module:
    return waves(
        Part(lambda n, x: F.conv1d(x, n.w, n.b, groups=n.c), w=weight(8, 1, 3), b=gain(8), c=8)
    )


@case("bare weights")
def bare_grouped_convolution() -> nn.Module:
    return waves(Part(lambda n, x: F.conv1d(x, n.w, groups=2), w=weight(6, 4, 3)), left=6)


@case("bare weights", "cut", IMAGE)
def blur_by_a_buffer() -> nn.Module:
    """One kernel for each channel (antialiased pooling)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, n.kernel.expand(x.size(1), 1, 3, 3), padding=1, groups=x.size(1))

    return images(Part(forward, kernel=torch.ones(1, 1, 3, 3) / 9))


@case("bare weights", "cut", IMAGE)
def blur_by_a_buffer_of_the_width() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, n.kernel, stride=2, padding=1, groups=n.kernel.size(0))

    return images(Part(forward, kernel=torch.rand(8, 1, 3, 3)), width=8)


@case("bare weights")
def the_kernel_of_a_layer_used_outside() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (2, 0)), n.conv.weight, n.conv.bias)

    return waves(Part(forward, conv=nn.Conv1d(8, 8, 3)))


@case("bare weights", "safe")
def sinc_filters() -> nn.Module:
    """Filters that are computed from two numbers each."""

    def forward(n: Any, x: Tensor) -> Tensor:
        time = torch.arange(-2, 3, dtype=x.dtype)
        low, high = n.low.abs(), n.low.abs() + n.band.abs()
        kernels = (torch.sinc(high * time) - torch.sinc(low * time)).unsqueeze(1)
        return F.conv1d(x, kernels)

    return around(Part(forward, low=gain(8, 1), band=gain(8, 1)), (nn.ReLU(),), nn.Conv1d(8, 2, 3))


@case("bare weights", "safe", IMAGE)
def kernels_chosen_by_the_input() -> nn.Module:
    """A mixture of kernels for each example, as groups of one convolution (CondConv)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        shares = n.router(x.mean((2, 3))).sigmoid()
        kernels = (shares @ n.kernels.flatten(1)).view(b * 8, c, 3, 3)
        y = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b)
        return y.view(b, 8, h, w)

    return images(Part(forward, router=nn.Linear(8, 3), kernels=weight(3, 8, 8, 3, 3)))


@case("bare weights", "safe")
def kernels_made_by_a_layer() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        kernels = n.make(x.mean((0, 2))).view(8, 8, 1)
        return F.conv1d(x, kernels)

    return waves(Part(forward, make=nn.Linear(8, 64)))


# -- computed weights -----------------------------------------------------------------------------


@case("computed weights")
def weight_norm_of_a_convolution() -> nn.Module:
    return waves(parametrizations.weight_norm(nn.Conv1d(8, 6, 3)), left=6)


@case("computed weights")
def old_weight_norm_of_a_convolution() -> nn.Module:
    return waves(nn.utils.weight_norm(nn.Conv1d(8, 6, 3)), left=6)


@case("computed weights", "cut", LAST)
def weight_norm_of_a_linear_layer() -> nn.Module:
    return frames(parametrizations.weight_norm(nn.Linear(8, 6)), left=6)


@case("computed weights", "cut", LAST)
def old_weight_norm_of_a_linear_layer() -> nn.Module:
    return frames(nn.utils.weight_norm(nn.Linear(8, 6)), left=6)


@case("computed weights")
def weight_norm_of_a_transposed_convolution() -> nn.Module:
    return waves(parametrizations.weight_norm(nn.ConvTranspose1d(8, 6, 4, 2)), left=6)


@case("computed weights")
def old_weight_norm_of_a_transposed_convolution() -> nn.Module:
    return waves(nn.utils.weight_norm(nn.ConvTranspose1d(8, 6, 4, 2)), left=6)


@case("computed weights")
def weight_norm_of_a_depthwise_convolution() -> nn.Module:
    return waves(parametrizations.weight_norm(nn.Conv1d(8, 8, 3, groups=8)))


@case("computed weights")
def old_weight_norm_of_a_grouped_convolution() -> nn.Module:
    return waves(nn.utils.weight_norm(nn.Conv1d(8, 8, 3, groups=2)))


@case("computed weights", "cut", IMAGE)
def weight_norm_of_one_length() -> nn.Module:
    return images(parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1), dim=None))


@case("computed weights", "cut", LAST)
def weight_norm_along_the_inputs() -> nn.Module:
    return frames(parametrizations.weight_norm(nn.Linear(8, 6), dim=1), left=6)


@case("computed weights")
def weight_norm_in_a_residual_block() -> nn.Module:
    norm = parametrizations.weight_norm
    held = {"a": norm(nn.Conv1d(8, 6, 3, padding=1)), "b": norm(nn.Conv1d(6, 8, 1))}
    return waves(Part(lambda n, x: x + n.b(F.leaky_relu(n.a(F.leaky_relu(x)))), **held))


@case("computed weights", "safe")
def spectral_norm_of_a_convolution() -> nn.Module:
    return waves(parametrizations.spectral_norm(nn.Conv1d(8, 8, 1)))


@case("computed weights", "safe", LAST)
def old_spectral_norm_of_a_linear_layer() -> nn.Module:
    return frames(nn.utils.spectral_norm(nn.Linear(8, 8)))


@case("computed weights", "safe", LAST)
def orthogonal_matrix() -> nn.Module:
    return frames(parametrizations.orthogonal(nn.Linear(8, 8)))


class Softplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


@case("computed weights", "safe", LAST)
def positive_weights() -> nn.Module:
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", Softplus())
    return frames(layer)


@case("computed weights", "safe", LAST)
def symmetric_weights() -> nn.Module:
    layer = nn.Linear(8, 8)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return frames(layer)


@case("computed weights", "safe")
def weights_pruned_one_by_one() -> nn.Module:
    return waves(prune.l1_unstructured(nn.Conv1d(8, 8, 3), "weight", 0.5))


class StandardConv(nn.Conv2d):
    """Weight standardised, with a gain (NFNet)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = gain(self.out_channels, 1, 1, 1)
        self.scale = 1.7 * self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


@case("computed weights", "safe", IMAGE)
def standardised_by_batch_norm() -> nn.Module:
    return images(StandardConv(8, 8, 3, padding=1))


class Standard(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        w = (self.weight - flat.mean(1)[:, None, None]) / (flat.std(1) + 1e-5)[:, None, None]
        return self._conv_forward(x, w, self.bias)


@case("computed weights", "safe")
def standardised_by_hand() -> nn.Module:
    return waves(Standard(8, 6, 3), left=6)


@case("computed weights", "safe")
def standardised_depthwise() -> nn.Module:
    return waves(Standard(8, 8, 3, groups=8))


class Rounded(nn.Linear):
    """Fake quantisation of the weight, straight through."""

    def forward(self, x: Tensor) -> Tensor:
        step = self.weight.abs().max() / 127
        w = self.weight + ((self.weight / step).round() * step - self.weight).detach()
        return F.linear(x, w, self.bias)


@case("computed weights", "safe", LAST)
def rounded_weights() -> nn.Module:
    return frames(Rounded(8, 8))


@case("computed weights", "safe", IMAGE)
def demodulated_weights() -> nn.Module:
    """StyleGAN: kernels scaled by a style and normalised for each example."""

    def forward(n: Any, x: Tensor) -> Tensor:
        style = n.style(x.mean((2, 3)))
        w = n.w[None] * style[:, None, :, None, None]
        w = w * w.square().sum((2, 3, 4), keepdim=True).add(1e-8).rsqrt()
        b, c, h, width = x.shape
        y = F.conv2d(x.view(1, b * c, h, width), w.view(b * 8, c, 3, 3), padding=1, groups=b)
        return y.view(b, 8, h, width)

    return images(Part(forward, style=nn.Linear(8, 8), w=weight(8, 8, 3, 3)))


# -- subclasses of layers -------------------------------------------------------------------------


class SamePadding(nn.Conv2d):
    """TensorFlow's padding (timm, EfficientNet)."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        need = [
            max((math.ceil(s / st) - 1) * st + k - s, 0)
            for s, st, k in zip(
                (width, height), self.stride[::-1], self.kernel_size[::-1], strict=True
            )
        ]
        x = F.pad(x, [need[0] // 2, need[0] - need[0] // 2, need[1] // 2, need[1] - need[1] // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Causal(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class Cropped(nn.ConvTranspose1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., : -self.stride[0]]


class ChannelsLast(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Clamped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-1, 1)


class ByFunction(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias if self.bias is not None else None)


class ByProduct(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Shared(nn.Conv1d):
    """Runs at two speeds with one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        slow = F.conv1d(x, self.weight, self.bias, padding=2, dilation=2)
        return super().forward(x) + slow


class Chomped(nn.Module):
    """A convolution held as an attribute of a plain module with a forward of its own."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv, self.chomp = nn.Conv1d(c, c, 3, padding=2, groups=c), 2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, : -self.chomp].contiguous()


@case("subclasses", "cut", IMAGE)
def convolution_with_its_own_padding() -> nn.Module:
    return images(SamePadding(8, 6, 3, 2), left=6)


@case("subclasses", "cut", IMAGE)
def depthwise_convolution_with_its_own_padding() -> nn.Module:
    return images(SamePadding(8, 8, 3, groups=8), left=8)


@case("subclasses", "cut", IMAGE)
def grouped_convolution_with_its_own_padding() -> nn.Module:
    return images(SamePadding(8, 6, 3, groups=2), left=6)


@case("subclasses")
def causal_convolution() -> nn.Module:
    return waves(Causal(8, 6, 3, dilation=2), left=6)


@case("subclasses")
def cropped_transposed_convolution() -> nn.Module:
    return waves(Cropped(8, 6, 4, 2), left=6)


@case("subclasses", "cut", LAST)
def convolution_channels_last() -> nn.Module:
    return frames(ChannelsLast(8, 6, 3), left=6)


@case("subclasses", "cut", LAST)
def linear_layer_that_wraps_its_parent() -> nn.Module:
    return frames(Clamped(8, 6), left=6)


@case("subclasses", "cut", LAST)
def linear_layer_by_its_function() -> nn.Module:
    return frames(ByFunction(8, 6, bias=False), left=6)


@case("subclasses", "cut", LAST)
def linear_layer_by_a_product() -> nn.Module:
    return frames(ByProduct(8, 6), left=6)


@case("subclasses")
def convolution_at_two_speeds() -> nn.Module:
    return waves(Shared(8, 8, 3, padding=1))


@case("subclasses")
def convolution_that_is_chomped() -> nn.Module:
    return waves(Chomped(8))


@case("subclasses", "cut", (2, 7), tokens=11)
def embedding_that_scales() -> nn.Module:
    class Scaled(nn.Embedding):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 3.0

    return nn.Sequential(Scaled(11, 8), nn.Linear(8, 3))


@case("subclasses", "safe", (2, 7), tokens=11)
def embedding_that_scales_by_its_width() -> nn.Module:
    class Scaled(nn.Embedding):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.embedding_dim**0.5

    return nn.Sequential(Scaled(11, 8), nn.Linear(8, 3))


@case("subclasses", "cut", LAST)
def recurrent_layer_that_returns_its_output_only() -> nn.Module:
    class Only(nn.GRU):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)[0]

    return frames(Only(8, 6, batch_first=True), left=6)


@case("subclasses", "cut", LAST)
def attention_that_returns_its_output_only() -> nn.Module:
    class Only(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=False)[0]

    return frames(Only(8, 2, batch_first=True))


@case("subclasses", "cut", LAST)
def two_layers_that_share_a_weight() -> nn.Module:
    one, two = nn.Linear(8, 8), nn.Linear(8, 8)
    two.weight = one.weight
    return frames(one, nn.ReLU(), two)


@case("subclasses", "cut", LAST)
def autoencoder_that_turns_its_weight() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.linear(n.up(x).relu(), n.up.weight.t(), n.back)

    return frames(Part(forward, up=nn.Linear(8, 12), back=gain(8)))
