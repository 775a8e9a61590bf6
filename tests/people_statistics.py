"""Sums, counts, losses and products over channels, of activations and of bare tensors alike."""

from __future__ import annotations

from typing import Any

import torch
from people_cases import Part, case, frames, gain, images, waves, weight
from torch import Tensor, nn
from torch.nn import functional as F

LAST = (2, 7, 4)
IMAGE = (2, 1, 8, 8)


# -- one number of all channels -------------------------------------------------------------------


@case("statistics")
def mean_of_everything() -> nn.Module:
    return waves(lambda x: x * x.mean((1, 2), keepdim=True).exp())


@case("statistics", "cut", (1, 1, 20), fixed_batch=True)
def mean_of_everything_without_axes() -> nn.Module:
    return waves(lambda x: x - x.mean())


@case("statistics")
def root_mean_square_of_everything() -> nn.Module:
    return waves(lambda x: x / x.square().mean((1, 2), keepdim=True).sqrt())


@case("statistics")
def mean_of_flattened_channels() -> nn.Module:
    return waves(lambda x: x * x.flatten(1).mean(1)[:, None, None])


@case("statistics", "cut", IMAGE)
def length_of_flattened_channels() -> nn.Module:
    return images(lambda x: x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


@case("statistics", "cut", IMAGE)
def normalised_when_flattened() -> nn.Module:
    return images(lambda x: F.normalize(x.flatten(1), dim=1).view_as(x) * 5)


@case("statistics", "safe")
def sum_by_the_count_of_elements() -> nn.Module:
    return waves(lambda x: x - x.sum((1, 2), keepdim=True) / x[0].numel())


@case("statistics", "safe")
def share_of_positive_channels() -> nn.Module:
    return waves(lambda x: x * (x > 0).to(x.dtype).mean(1, keepdim=True))


@case("statistics", "safe")
def count_of_channels_above_a_bound() -> nn.Module:
    return waves(lambda x: x * (x >= -0.2).sum(1, keepdim=True))


@case("statistics", "safe")
def any_channel_above_a_bound() -> nn.Module:
    return waves(lambda x: torch.where((x > -0.1).any(1, keepdim=True), x, x.sin()))


@case("statistics", "safe")
def all_channels_above_a_bound() -> nn.Module:
    return waves(lambda x: torch.where((x > -0.9).all(1, keepdim=True), x, x.sin()))


@case("statistics", "safe")
def count_of_channels_that_are_not_zero() -> nn.Module:
    return waves(lambda x: x * torch.count_nonzero(x.relu(), 1)[:, None])


@case("statistics", "safe", LAST)
def number_of_the_highest_channel() -> nn.Module:
    """The second output of a maximum is a position among the channels."""
    return frames(lambda x: x + x.max(-1, keepdim=True)[1])


@case("statistics", "safe", LAST)
def number_of_the_highest_channel_by_its_name() -> nn.Module:
    return frames(lambda x: x * torch.max(x, dim=-1, keepdim=True).indices)


@case("statistics", "safe", LAST)
def number_of_the_lowest_channel() -> nn.Module:
    return frames(lambda x: x + 0.1 * torch.min(x, -1, True)[1])


@case("statistics", "safe", LAST)
def a_class_embedded() -> nn.Module:
    """The most likely of eight classes is looked up."""

    def forward(n: Any, x: Tensor) -> Tensor:
        return n.table(n.score(x).argmax(-1))

    return frames(Part(forward, score=nn.Linear(8, 6), table=nn.Embedding(6, 5)), left=5)


@case("statistics", "safe", LAST)
def a_class_embedded_by_one_hot() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        chosen = n.score(x).max(-1)[1]
        return F.one_hot(chosen, 6).to(x.dtype) @ n.table

    return frames(Part(forward, score=nn.Linear(8, 6), table=weight(6, 5)), left=5)


@case("statistics", "safe", LAST)
def a_soft_choice_that_is_hard_forwards() -> nn.Module:
    """Straight-through: one-hot of the highest, gradient of the softmax."""

    def forward(n: Any, x: Tensor) -> Tensor:
        soft = n.score(x).softmax(-1)
        hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return (hard - soft.detach() + soft) @ n.table

    return frames(Part(forward, score=nn.Linear(8, 6), table=weight(6, 5)), left=5)


@case("statistics", "safe", LAST)
def two_best_of_some_experts() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        scores, chosen = n.router(x).softmax(-1).topk(2, -1)
        found = torch.stack([expert(x) for expert in n.experts], 2)
        picked = found.gather(2, chosen[..., None].expand(*chosen.shape, found.size(-1)))
        return (picked * scores[..., None]).sum(2)

    experts = nn.ModuleList(nn.Linear(8, 6) for _ in range(4))
    return frames(Part(forward, router=nn.Linear(8, 4), experts=experts), left=6)


@case("statistics", "safe", LAST)
def the_second_highest_channel() -> nn.Module:
    return frames(lambda x: x - x.kthvalue(2, -1, keepdim=True)[0])


@case("statistics", "safe", LAST)
def the_median_channel() -> nn.Module:
    return frames(lambda x: x - x.median(-1, keepdim=True)[0])


@case("statistics", "safe")
def sum_of_exponentials() -> nn.Module:
    return waves(lambda x: x - x.logsumexp(1, keepdim=True))


@case("statistics", "safe")
def sum_of_exponentials_by_hand() -> nn.Module:
    return waves(lambda x: x.exp() / x.exp().sum(1, keepdim=True))


@case("statistics", "safe")
def softmax_by_hand_with_its_maximum() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        e = (x - x.amax(1, keepdim=True)).exp()
        return e / e.sum(1, keepdim=True)

    return waves(forward)


@case("statistics")
def softmax_of_places_and_channels() -> nn.Module:
    return waves(lambda x: x.flatten(1).softmax(-1).view_as(x))


@case("statistics", "cut", IMAGE)
def softmax_layer_over_the_channels_of_a_map() -> nn.Module:
    return images(nn.Softmax2d())


@case("statistics", "safe", LAST)
def softmin_over_channels() -> nn.Module:
    return frames(nn.Softmin(dim=-1))


@case("statistics", "cut", LAST)
def softmax_in_groups() -> nn.Module:
    return frames(lambda x: x.unflatten(-1, (2, -1)).softmax(-1).flatten(-2))


@case("statistics", "cut", LAST)
def softmax_between_groups() -> nn.Module:
    return frames(lambda x: x.unflatten(-1, (2, -1)).softmax(-2).flatten(-2))


@case("statistics", "safe")
def pooled_along_the_channels() -> nn.Module:
    return waves(lambda x: F.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2), left=4)


@case("statistics", "safe")
def pooled_to_one_channel() -> nn.Module:
    return waves(lambda x: x * F.adaptive_avg_pool1d(x.transpose(1, 2), 1).transpose(1, 2))


@case("statistics", "safe")
def highest_of_neighbouring_channels() -> nn.Module:
    return waves(lambda x: F.max_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2))


@case("statistics")
def deviation_after_the_mean_of_time() -> nn.Module:
    return waves(lambda x: x * x.mean(2, keepdim=True).std(1, keepdim=True))


@case("statistics", "cut", LAST)
def norm_of_two_streams_side_by_side() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.norm(torch.cat([n.a(x), n.b(x)], -1))

    held = {"a": nn.Linear(8, 6), "b": nn.Linear(8, 4), "norm": nn.LayerNorm(10)}
    return frames(Part(forward, **held), left=10)


@case("statistics", "cut", LAST)
def norm_by_hand_of_two_streams_side_by_side() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = torch.cat([n.a(x), n.b(x)], -1)
        return y * (y.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * n.g

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 4), g=gain(10)), left=10)


@case("statistics")
def group_norm_of_two_streams_side_by_side() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.norm(torch.cat([x, n.other(x)], 1))

    held = {"other": nn.Conv1d(8, 8, 1), "norm": nn.GroupNorm(4, 16)}
    return waves(Part(forward, **held), left=16)


@case("statistics", "cut", LAST)
def mean_of_stacked_streams() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        both = torch.stack([n.a(x), n.b(x)], -1)
        return both.mean(-1) + both.amax(-1) - both.std(-1)

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 6)), left=6)


@case("statistics", "safe", LAST)
def repeated_channels() -> nn.Module:
    return frames(lambda x: torch.cat([x.repeat(1, 1, 2), x.repeat_interleave(2, -1)], -1), left=32)


@case("statistics", "safe", LAST)
def tiled_channels() -> nn.Module:
    return frames(lambda x: x.tile(1, 1, 3), left=24)


@case("statistics", "safe", LAST)
def channels_stretched() -> nn.Module:
    return frames(lambda x: F.interpolate(x, scale_factor=2, mode="linear"), left=16)


# -- products between activations -----------------------------------------------------------------


@case("statistics", "cut", LAST)
def dot_products_by_einsum() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x * torch.einsum("bnc,bnc->bn", n.a(x), n.b(x))[..., None].tanh()

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 6)))


@case("statistics", "cut", LAST)
def dot_products_by_sums() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x * (n.a(x) * n.b(x)).sum(-1, keepdim=True).tanh()

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 6)))


@case("statistics", "cut", LAST)
def dot_products_with_itself() -> nn.Module:
    return frames(lambda x: x + torch.matmul(x, x.transpose(-1, -2)).tanh().mean(-1, keepdim=True))


@case("statistics", "cut", LAST)
def dot_products_by_baddbmm() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = n.a(x), n.b(x)
        bias = torch.zeros(len(x), x.size(1), x.size(1), dtype=x.dtype)
        return torch.baddbmm(bias, a, b.mT, beta=0.0, alpha=0.3).softmax(-1) @ x

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 6)))


@case("statistics", "cut", LAST)
def contracted_with_a_bare_vector() -> nn.Module:
    return frames(Part(lambda n, x: x * (x @ n.v)[..., None].tanh(), v=weight(8)))


@case("statistics", "cut", LAST)
def contracted_with_a_bare_vector_by_einsum() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x * torch.einsum("bnc,c->bn", x, n.v).unsqueeze(-1).sigmoid()

    return frames(Part(forward, v=weight(8)))


@case("statistics", "cut", LAST)
def contracted_with_a_bare_vector_by_sums() -> nn.Module:
    return frames(Part(lambda n, x: x * (x * n.v).sum(-1, keepdim=True).sigmoid(), v=weight(8)))


@case("statistics", "safe", LAST)
def sum_by_einsum() -> nn.Module:
    return frames(lambda x: x * torch.einsum("bnc->bn", x)[..., None].tanh())


@case("statistics", "safe", LAST)
def tensor_product_of_two_frames() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.read(torch.einsum("bnc,bnd->bncd", n.a(x), n.b(x)).flatten(-2))

    held = {"a": nn.Linear(8, 3), "b": nn.Linear(8, 4), "read": nn.Linear(12, 8)}
    return frames(Part(forward, **held))


@case("statistics", "cut", LAST)
def similarity_with_bare_prototypes() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        near = F.cosine_similarity(x.unsqueeze(2), n.prototypes, dim=-1)
        return near.softmax(-1) @ n.values

    return frames(Part(forward, prototypes=weight(5, 8), values=weight(5, 6)), left=6)


@case("statistics", "safe", LAST)
def distance_to_bare_prototypes() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        far = (x.unsqueeze(2) - n.prototypes).square().sum(-1)
        return (-far).softmax(-1) @ n.values

    return frames(Part(forward, prototypes=weight(5, 8), values=weight(5, 6)), left=6)


@case("statistics", "safe", LAST)
def distance_of_a_pair() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x * F.pairwise_distance(n.a(x), n.b(x), keepdim=True)

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 6)))


@case("statistics", "safe", LAST)
def losses_as_gates() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = n.a(x), n.b(x)
        return x * (F.mse_loss(a, b) + F.l1_loss(a, b) + F.smooth_l1_loss(a, b)).sigmoid()

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 6)))


@case("statistics", "safe", LAST)
def divergence_as_a_gate() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = n.a(x).log_softmax(-1), n.b(x).softmax(-1)
        return x * F.kl_div(a, b, reduction="none").sum(-1, keepdim=True).sigmoid()

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 6)))


@case("statistics", "safe", LAST)
def entropy_as_a_gate() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        p = n.a(x).softmax(-1)
        return x * -(p * p.log()).sum(-1, keepdim=True)

    return frames(Part(forward, a=nn.Linear(8, 6)))


# -- statistics of bare tensors -------------------------------------------------------------------


@case("bare statistics", "safe", LAST)
def length_of_a_bare_gain() -> nn.Module:
    return frames(Part(lambda n, x: x * n.g / n.g.norm(), g=gain(8)))


@case("bare statistics", "safe", LAST)
def mean_of_a_bare_gain() -> nn.Module:
    return frames(Part(lambda n, x: x * (n.g - n.g.mean()), g=gain(8)))


@case("bare statistics", "safe", LAST)
def softmax_of_a_bare_gain() -> nn.Module:
    return frames(Part(lambda n, x: x * n.g.softmax(0), g=gain(8)))


@case("bare statistics", "safe", LAST)
def highest_of_a_bare_gain() -> nn.Module:
    return frames(Part(lambda n, x: x * n.g / n.g.amax(), g=gain(8)))


@case("bare statistics", "safe", LAST)
def cumulated_bare_gain() -> nn.Module:
    return frames(Part(lambda n, x: x * n.g.cumsum(0), g=gain(8)))


@case("bare statistics", "safe", LAST)
def sorted_bare_gain() -> nn.Module:
    return frames(Part(lambda n, x: x * n.g.sort()[0], g=gain(8)))


@case("bare statistics", "safe", LAST)
def size_of_a_bare_gain() -> nn.Module:
    return frames(Part(lambda n, x: x * n.g / len(n.g), g=gain(8)))


@case("bare statistics", "safe", LAST)
def bare_matrix_by_its_highest_entry() -> nn.Module:
    return frames(Part(lambda n, x: F.linear(x, n.w / n.w.abs().max()), w=weight(6, 8)), left=6)


@case("bare statistics", "safe", LAST)
def bare_matrix_by_its_length() -> nn.Module:
    return frames(Part(lambda n, x: F.linear(x, n.w / n.w.norm()), w=weight(6, 8)), left=6)


@case("bare statistics", "safe", LAST)
def bare_matrix_by_the_highest_entry_of_each_row() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.linear(x, n.w / n.w.abs().amax(1, keepdim=True))

    return frames(Part(forward, w=weight(6, 8)), left=6)


@case("bare statistics", "safe", LAST)
def rounded_to_levels_of_each_row() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        step = n.w.abs().amax(1, keepdim=True) / 7
        return F.linear(x, (n.w / step).round() * step)

    return frames(Part(forward, w=weight(6, 8)), left=6)


@case("bare statistics", "safe", LAST)
def ternary_weights() -> nn.Module:
    """BitNet: scaled by the mean of the absolute entries, then rounded."""

    def forward(n: Any, x: Tensor) -> Tensor:
        scale = n.w.abs().mean().clamp(min=1e-5)
        return F.linear(x, (n.w / scale).round().clamp(-1, 1) * scale)

    return frames(Part(forward, w=weight(6, 8)), left=6)


@case("bare statistics", "safe", LAST)
def rounded_activations() -> nn.Module:
    """By the highest of each frame."""

    def forward(x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True) / 127
        return (x / step).round() * step

    return frames(forward)


@case("bare statistics", "safe", LAST)
def rounded_activations_of_everything() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        step = x.abs().max() / 127
        return torch.fake_quantize_per_tensor_affine(x, float(step), 0, -127, 127)

    return frames(forward)


@case("bare statistics", "safe", LAST)
def a_value_of_all_channels_decides() -> nn.Module:
    """Clipped only where the highest is above a bound."""

    def forward(x: Tensor) -> Tensor:
        peak = x.abs().max().item()
        return x / peak if peak > 0.5 else x

    return frames(forward)


@case("bare statistics", "safe")
def a_kernel_that_sums_to_one() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.conv1d(x, n.w.softmax(-1), groups=x.size(1))

    return waves(Part(forward, w=weight(8, 1, 3)))


@case("bare statistics", "safe")
def a_kernel_that_sums_to_one_over_its_inputs() -> nn.Module:
    return waves(
        Part(lambda n, x: F.conv1d(x, n.w.flatten(1).softmax(-1).view_as(n.w)), w=weight(6, 8, 3)),
        left=6,
    )


# -- classifiers and layers of torch --------------------------------------------------------------


@case("layers", "cut", IMAGE)
def classifier_of_flattened_maps() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 10, 2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 3)),
    )


@case("layers", "cut", IMAGE)
def classifier_of_viewed_maps() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = F.max_pool2d(n.b(F.relu(n.a(x))), 2)
        return n.d(F.relu(n.c(y.view(y.size(0), -1))))

    held = {"a": nn.Conv2d(1, 6, 3), "b": nn.Conv2d(6, 10, 3)}
    return Part(forward, c=nn.Linear(40, 12), d=nn.Linear(12, 3), **held)


@case("layers", "cut", IMAGE, partly=True)
def classifier_viewed_by_a_literal_length() -> nn.Module:
    """``view(-1, 40)`` as in the oldest tutorials: the last maps stay, the others can go."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = F.max_pool2d(n.b(F.relu(n.a(x))), 2).view(-1, 40)
        return n.d(F.relu(n.c(y)))

    held = {"a": nn.Conv2d(1, 6, 3), "b": nn.Conv2d(6, 10, 3)}
    return Part(forward, c=nn.Linear(40, 12), d=nn.Linear(12, 3), **held)


@case("layers", "cut", IMAGE)
def pooled_with_indices_and_back() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y, where = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(n.mix(y), where, 2)

    return images(Part(forward, mix=nn.Conv2d(8, 8, 1)))


@case("layers", "cut", IMAGE)
def pools_of_every_kind() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = nn.LPPool2d(2, 2)(x) + F.avg_pool2d(x, 2) + F.adaptive_max_pool2d(x, (4, 4))
        return F.interpolate(y, scale_factor=2, mode="bicubic")

    return images(forward)


@case("layers", "cut", IMAGE)
def paddings_of_every_kind() -> nn.Module:
    return images(
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d((1, 0, 0, 1)),
        nn.ReplicationPad2d(1),
        nn.CircularPad2d(1),
    )


@case("layers", "cut", IMAGE)
def channel_shuffle_layer() -> nn.Module:
    return images(nn.ChannelShuffle(2))


@case("layers", "cut", IMAGE)
def pixels_unshuffled() -> nn.Module:
    return images(nn.PixelUnshuffle(2), left=32)


@case("layers")
def unflattened_by_a_layer() -> nn.Module:
    return waves(nn.Unflatten(1, (2, 4)), Part(lambda n, x: x[:, 0] * x[:, 1]), left=4)


@case("layers", "cut", LAST)
def lazy_layers() -> nn.Module:
    net = frames(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(8))
    net(torch.zeros(1, 2, 4))
    return net


@case("layers", "cut", (2, 7), tokens=11)
def bags_of_words() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(11, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


@case("layers", "cut", (2, 7), tokens=11)
def words_and_their_padding() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.table(x)
        keep = (x != 0).unsqueeze(-1)
        return n.head((y * keep).sum(1) / keep.sum(1).clamp(min=1))

    return Part(forward, table=nn.Embedding(11, 8, padding_idx=0), head=nn.Linear(8, 3))


@case("layers", "cut", (2, 1, 6, 8, 8))
def volumes() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(8, 8, (1, 3, 3), groups=8), nn.ConvTranspose3d(8, 6, 2, 2), nn.Conv3d(6, 2, 1)),
    )


@case("layers", "safe", LAST)
def attention_of_torch_with_a_bias_of_keys() -> nn.Module:
    layer = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
    return frames(Part(lambda n, x: n.layer(x, x, x)[0], layer=layer))


@case("layers", "safe", (2, 7), tokens=11)
def embedding_of_a_highest_length() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 8, max_norm=1.0), nn.Linear(8, 6), nn.Linear(6, 3))
