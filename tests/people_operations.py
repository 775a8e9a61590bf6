"""Buffers, tokens and positions; indexing, sorting and scattering; spectra and complex numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from people_cases import Part, around, case, frames, gain, images, waves, weight
from torch import Tensor, nn
from torch.nn import functional as F

LAST = (2, 7, 4)
IMAGE = (2, 1, 8, 8)


# -- functions called by keywords -----------------------------------------------------------------


@case("keywords")
def mean_by_keywords() -> nn.Module:
    return waves(lambda x: x - torch.mean(input=x, dim=1, keepdim=True))


@case("keywords")
def softmax_by_keywords() -> nn.Module:
    return waves(lambda x: torch.softmax(input=x, dim=1) * x)


@case("keywords", "cut", LAST)
def layer_norm_by_keywords() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return F.layer_norm(input=x, normalized_shape=x.shape[-1:], weight=n.w, bias=n.b, eps=1e-6)

    return frames(Part(forward, w=gain(8), b=gain(8)))


@case("keywords", "cut", LAST)
def linear_by_keywords() -> nn.Module:
    return frames(
        Part(lambda n, x: F.linear(input=x, weight=n.w, bias=n.b), w=weight(6, 8), b=gain(6)),
        left=6,
    )


@case("keywords")
def normalize_by_keywords() -> nn.Module:
    return waves(lambda x: F.normalize(input=x, p=2.0, dim=1))


@case("keywords", "cut", LAST)
def variance_with_the_axis_named() -> nn.Module:
    return frames(lambda x: x / (1 + x.var(dim=-1, unbiased=False, keepdim=True)))


@case("keywords")
def mean_with_an_axis_for_numpy() -> nn.Module:
    return waves(lambda x: x - x.mean(axis=1, keepdims=True))


@case("keywords", "cut", LAST)
def product_by_keywords() -> nn.Module:
    return frames(Part(lambda n, x: torch.matmul(input=x, other=n.w), w=weight(8, 6)), left=6)


# -- positions, tokens, queries -------------------------------------------------------------------


def sines(time: int, wide: int) -> Tensor:
    rate = torch.exp(torch.arange(0, wide, 2) * (-math.log(1000.0) / wide))
    angle = torch.arange(time)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


@case("buffers", "cut", LAST)
def sines_in_a_buffer() -> nn.Module:
    return frames(Part(lambda n, x: x + n.pe[: x.size(1)], pe=sines(16, 8)))


@case("buffers", "cut", LAST)
def sines_in_a_buffer_cloned() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x + n.pe[:, : x.size(1)].clone().detach().requires_grad_(False)

    return frames(Part(forward, pe=sines(16, 8)[None]))


@case("buffers", "cut", LAST)
def sines_in_a_buffer_expanded() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x + n.pe.narrow(0, 0, x.size(1)).unsqueeze(0).expand(len(x), -1, -1).type_as(x)

    return frames(Part(forward, pe=sines(16, 8)))


@case("buffers", "cut", (7, 2, 4))
def sines_in_a_buffer_time_first() -> nn.Module:
    return frames(Part(lambda n, x: x + n.pe[: x.size(0), :], pe=sines(16, 8).unsqueeze(1)))


@case("buffers")
def sines_in_a_buffer_turned() -> nn.Module:
    return waves(Part(lambda n, x: x + n.pe[: x.size(-1)].t(), pe=sines(32, 8)))


@case("buffers", "cut", LAST)
def learned_positions() -> nn.Module:
    return frames(
        Part(lambda n, x: F.dropout(x + n.pe[:, : x.size(1), :], 0.1, False), pe=weight(1, 16, 8))
    )


@case("buffers", "cut", LAST)
def learned_positions_looked_up() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return x + n.table(n.ids[:, : x.size(1)])

    return frames(Part(forward, table=nn.Embedding(16, 8), ids=torch.arange(16)[None]))


@case("buffers", "cut", IMAGE)
def learned_positions_resized() -> nn.Module:
    """A grid of positions, interpolated to the size of the map."""

    def forward(n: Any, x: Tensor) -> Tensor:
        grid = n.pe.reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        return x + F.interpolate(grid, size=x.shape[-2:], mode="bilinear", align_corners=False)

    return images(Part(forward, pe=weight(1, 16, 8)))


@case("buffers", "cut", IMAGE)
def learned_positions_of_rows_and_columns() -> nn.Module:
    """Half of the channels tell the row, half the column (DETR)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows, columns = n.rows(torch.arange(h)), n.columns(torch.arange(w))
        both = [columns[None].repeat(h, 1, 1), rows[:, None].repeat(1, w, 1)]
        return x + torch.cat(both, -1).permute(2, 0, 1).unsqueeze(0)

    return images(Part(forward, rows=nn.Embedding(8, 4), columns=nn.Embedding(8, 4)))


@case("buffers", "cut", LAST)
def a_buffer_that_is_not_saved() -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(8) + 0.5, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    return frames(Own())


@case("buffers", "safe", LAST)
def a_tensor_that_is_no_buffer() -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = [torch.rand(8, dtype=torch.float64) + 0.5]

        def forward(self, x: Tensor) -> Tensor:
            return x * self.held[0]

    return frames(Own())


@case("buffers", "cut", LAST)
def class_token() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = torch.cat([n.token.expand(x.shape[0], -1, -1), x], dim=1) + n.pe[:, : x.size(1) + 1]
        return n.norm(x + n.mlp(x))[:, :1]

    mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
    return frames(
        Part(forward, token=weight(1, 1, 8), pe=weight(1, 9, 8), mlp=mlp, norm=nn.LayerNorm(8))
    )


@case("buffers", "cut", LAST)
def class_token_and_registers() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        b = x.size(0)
        x = torch.cat((n.token.repeat(b, 1, 1), n.registers.repeat(b, 1, 1), x + n.pe), 1)
        x = n.mix(x)
        return torch.cat([x[:, 0], x[:, 4:].mean(1)], -1)

    held = {"token": weight(1, 1, 8), "registers": weight(1, 3, 8), "pe": weight(1, 7, 8)}
    return frames(Part(forward, mix=nn.Linear(8, 8), **held), left=16)


@case("buffers", "cut", LAST)
def masked_frames() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        gone = (torch.arange(x.size(1)) % 3 == 0)[None, :, None]
        return torch.where(gone, n.token.to(x.dtype), x)

    return frames(Part(forward, token=weight(1, 1, 8)))


@case("buffers", "cut", LAST)
def masked_frames_by_assignment() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, torch.arange(x.size(1)) % 3 == 0] = n.token
        return x

    return frames(Part(forward, token=weight(8)))


@case("buffers", "cut", LAST)
def learned_queries() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q = n.q(n.queries.expand(len(x), -1, -1))
        return (q @ n.k(x).transpose(1, 2)).softmax(-1) @ n.v(x)

    held = {name: nn.Linear(8, 8) for name in ("q", "k", "v")}
    return frames(Part(forward, queries=weight(1, 3, 8), **held))


@case("buffers", "cut", LAST)
def learned_queries_from_a_table() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        queries = n.queries.weight.unsqueeze(0).repeat(x.size(0), 1, 1)
        return n.norm(queries + n.attention(queries, x, x)[0])

    held = {"attention": nn.MultiheadAttention(8, 2, batch_first=True), "norm": nn.LayerNorm(8)}
    return frames(Part(forward, queries=nn.Embedding(3, 8), **held))


@case("buffers", "cut", LAST)
def codes_by_distance() -> nn.Module:
    """The nearest of some learned vectors, by a product (vector quantisation)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        far = x.pow(2).sum(-1, keepdim=True) - 2 * x @ n.codes.t() + n.codes.pow(2).sum(-1)
        found = F.embedding(far.argmin(-1), n.codes)
        return x + (found - x).detach()

    return frames(Part(forward, codes=weight(5, 8)))


@case("buffers", "cut", LAST)
def prototypes_by_similarity() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        near = F.normalize(x, dim=-1) @ F.normalize(n.prototypes, dim=-1).t()
        return (near * 5).softmax(-1) @ n.prototypes

    return frames(Part(forward, prototypes=weight(5, 8)))


@case("buffers", "cut", LAST)
def conditioned_on_a_speaker() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        gamma, beta = n.film(n.speaker.weight[:1]).chunk(2, -1)
        return gamma * x + beta

    return frames(Part(forward, speaker=nn.Embedding(3, 5), film=nn.Linear(5, 16)))


@case("buffers", "cut", IMAGE)
def style_by_instance_statistics() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True) + 1e-5
        other = n.other(x.flip(-1))
        return (x - mean) / std * other.std((2, 3), keepdim=True) + other.mean((2, 3), keepdim=True)

    return images(Part(forward, other=nn.Conv2d(8, 8, 1)))


# -- indexing and its like ------------------------------------------------------------------------


@case("indexing")
def cat_with_nothing() -> nn.Module:
    return waves(lambda x: torch.cat([x[..., :0], x, x[..., x.size(-1) :]], -1))


@case("indexing", "cut", LAST)
def cat_with_an_empty_cache() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(len(x), 0, x.size(-1)), x], 1)

    return frames(Part(forward))


@case("indexing", "cut", LAST)
def frames_added_by_index() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = torch.zeros(len(x), 4, x.size(-1), dtype=x.dtype)
        return y.index_add(1, torch.arange(x.size(1)) % 4, x)

    return frames(forward)


@case("indexing", "cut", LAST)
def frames_added_by_scatter() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        index = (torch.arange(x.size(1)) // 2)[None, :, None].expand_as(x)
        return torch.zeros_like(x).scatter_add(1, index, x)

    return frames(forward)


@case("indexing", "cut", LAST)
def frames_added_by_scatter_in_place() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        index = (torch.arange(x.size(1)) % 3)[None, :, None].expand(x.shape)
        return torch.zeros_like(x).scatter_add_(1, index, x)[:, :3]

    return frames(forward)


@case("indexing", "cut", (6, 4))
def nodes_of_a_graph() -> nn.Module:
    """Messages along edges are gathered and added up."""

    def forward(n: Any, x: Tensor) -> Tensor:
        source, target = n.edges
        messages = n.message(torch.cat([x[source], x[target]], -1)).relu()
        return x + torch.zeros_like(x).index_add_(0, target, messages)

    edges = torch.tensor([[0, 1, 2, 0, 1, 2], [1, 2, 0, 2, 0, 1]])
    return frames(Part(forward, edges=edges, message=nn.Linear(16, 8)))


@case("indexing", "cut", LAST)
def frames_gathered() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        index = torch.tensor([3, 1, 0])[None, :, None].expand(len(x), 3, x.size(2))
        return x.gather(1, index)

    return frames(forward)


@case("indexing", "cut", LAST)
def best_frames_by_a_score() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        top = n.score(x).squeeze(-1).topk(3, dim=1).indices
        return torch.gather(x, 1, top.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    return frames(Part(forward, score=nn.Linear(8, 1)))


@case("indexing", "cut", LAST)
def frames_in_order_of_a_score() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        order = n.score(x)[..., 0].argsort(1)
        return torch.take_along_dim(x, order[..., None], 1)

    return frames(Part(forward, score=nn.Linear(8, 1)))


@case("indexing", "cut", LAST)
def frames_selected() -> nn.Module:
    return frames(lambda x: torch.index_select(x, 1, torch.tensor([0, 2, 4])))


@case("indexing", "cut", LAST)
def frames_by_a_mask() -> nn.Module:
    return frames(lambda x: x[:, torch.arange(x.size(1)) % 2 == 0])


@case("indexing", "cut", LAST)
def rows_by_a_mask_of_both_axes() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        keep = torch.ones(x.shape[:2], dtype=torch.bool)
        keep[0, 1] = False
        y = torch.zeros_like(x)
        y[keep] = n.mix(x[keep])
        return y

    return frames(Part(forward, mix=nn.Linear(8, 8)))


@case("indexing", "cut", (2, 4), partly=True)
def order_of_one_row() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        z = n.b(n.a(x).relu())[0]
        return z[z.argsort(descending=True)]

    return Part(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3))


@case("indexing", "cut", LAST)
def sorted_along_time() -> nn.Module:
    return frames(lambda x: x.sort(dim=1, descending=True).values)


@case("indexing", "cut", LAST)
def highest_along_time() -> nn.Module:
    return frames(lambda x: x.topk(3, dim=1)[0])


@case("indexing", "cut", LAST)
def median_along_time() -> nn.Module:
    return frames(lambda x: x - x.median(dim=1, keepdim=True).values)


@case("indexing")
def rolled_along_time() -> nn.Module:
    return waves(lambda x: x + torch.roll(x, 2, -1) - x.roll(shifts=1, dims=2))


@case("indexing")
def cumulated_along_time() -> nn.Module:
    return waves(lambda x: x.cumsum(-1) / torch.arange(1, x.size(-1) + 1))


@case("indexing")
def highest_so_far() -> nn.Module:
    return waves(lambda x: x.cummax(-1)[0])


@case("indexing", "cut", LAST)
def differences_along_time() -> nn.Module:
    return frames(lambda x: torch.cat([x[:, :1], x.diff(dim=1)], 1))


@case("indexing")
def frames_by_unfold() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = x.unfold(-1, 4, 2)
        return (y * torch.hann_window(4).to(x)).sum(-1)

    return waves(Part(forward))


@case("indexing", "cut", IMAGE)
def patches_by_unfold_and_back() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = F.unfold(x, 2, stride=2).relu()
        return F.fold(y, x.shape[-2:], 2, stride=2)

    return images(Part(forward))


@case("indexing")
def chunks_with_overlap() -> nn.Module:
    """Segments of half overlap and back by adding (dual-path models)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        b, _c, t = x.shape
        y = torch.stack([x[..., i : i + 6] for i in range(0, t - 5, 3)], -1)
        y = n.mix(y.flatten(2)).view(b, -1, 6, y.size(-1))
        out = torch.zeros(b, y.size(1), t, dtype=x.dtype)
        for i in range(y.size(-1)):
            out[..., 3 * i : 3 * i + 6] += y[..., i]
        return out

    return waves(Part(forward, mix=nn.Conv1d(8, 6, 1)), left=6)


@case("indexing", "cut", IMAGE)
def padded_in_every_way() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 2, 0), mode="reflect")
        return F.pad(F.pad(x, (1, 0), value=0.5), (0, 1, 0, 1), mode="replicate")

    return images(forward)


@case("indexing", "safe")
def padded_along_the_channels() -> nn.Module:
    """A shortcut that fills up with zeros (ResNet, option A)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        return n.up(x) + F.pad(x, (0, 0, 2, 2))

    return waves(Part(forward, up=nn.Conv1d(8, 12, 1)), left=12)


@case("indexing", "cut", IMAGE)
def sampled_on_a_grid() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        offset = n.offset(x).tanh().permute(0, 2, 3, 1)
        base = F.affine_grid(n.eye.expand(len(x), -1, -1), list(x.shape), align_corners=False)
        return F.grid_sample(x, base + 0.1 * offset, align_corners=False)

    eye = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    return images(Part(forward, offset=nn.Conv2d(8, 2, 3, padding=1), eye=eye))


@case("indexing", "cut", IMAGE)
def turned_in_place() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        x = x.flatten(2).clone()
        x.transpose_(1, 2)
        x.unsqueeze_(1)
        x.squeeze_(1)
        return x.transpose_(1, 2).unflatten(2, (8, 8))

    return images(forward)


@case("indexing", "cut", IMAGE)
def axes_moved_about() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = x.movedim(1, -1).swapaxes(1, 2).permute(0, 3, 2, 1)
        return torch.einsum("bchw->bwhc", y).transpose(1, 3).mT.contiguous()

    return images(forward)


@case("indexing", "cut", LAST)
def stacked_and_taken_apart() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        found = [n.mix(frame) for frame in x.unbind(1)]
        return torch.stack(found[::-1], dim=1)

    return frames(Part(forward, mix=nn.Linear(8, 8)))


@case("indexing", "cut", LAST)
def pairs_of_frames() -> nn.Module:
    """Every frame beside every other."""

    def forward(n: Any, x: Tensor) -> Tensor:
        t = x.size(1)
        a, b = x.unsqueeze(2).expand(-1, -1, t, -1), x.unsqueeze(1).expand(-1, t, -1, -1)
        return n.pair(torch.cat([a, b], -1)).relu().sum(2)

    return frames(Part(forward, pair=nn.Linear(16, 6)), left=6)


@case("indexing", "cut", LAST)
def patches_merged() -> nn.Module:
    """Two neighbours side by side (Swin)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = x[:, : x.size(1) // 2 * 2]
        return n.reduce(n.norm(torch.cat([x[:, 0::2], x[:, 1::2]], -1)))

    return frames(Part(forward, norm=nn.LayerNorm(16), reduce=nn.Linear(16, 6, bias=False)), left=6)


@case("indexing", "cut", LAST, partly=True)
def routed_to_experts() -> nn.Module:
    """Each frame goes through the layer with the highest score."""

    def forward(n: Any, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.size(-1))
        share, chosen = n.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(n.experts):
            where = (chosen == number).nonzero().flatten()
            out[where] = expert(flat[where]) * share[where, None]
        return out.view_as(x)

    def expert() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))

    return frames(
        Part(forward, router=nn.Linear(8, 2), experts=nn.ModuleList([expert(), expert()]))
    )


@case("indexing", "cut", LAST)
def blended_experts() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        shares = n.router(x).softmax(-1)
        outputs = torch.stack([expert(x) for expert in n.experts], dim=-1)
        return (outputs * shares.unsqueeze(-2)).sum(-1)

    experts = nn.ModuleList(nn.Linear(8, 6) for _ in range(3))
    return frames(Part(forward, router=nn.Linear(8, 3), experts=experts), left=6)


@case("indexing", "safe", LAST)
def masked_select_of_channels() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.masked_select(x, n.mask).view(*x.shape[:2], -1)

    return frames(Part(forward, mask=torch.arange(8) % 2 == 0), left=4)


@case("indexing", "cut", IMAGE)
def regions_of_interest() -> nn.Module:
    ops = pytest.importorskip("torchvision.ops")

    def forward(n: Any, x: Tensor) -> Tensor:
        boxes = torch.tensor([[0, 1.0, 1, 5, 6], [len(x) - 1, 0, 2, 4, 7]], dtype=x.dtype)
        return n.head(ops.roi_align(x, boxes, (4, 4), aligned=True).relu()).mean(0, keepdim=True)

    return images(Part(forward, head=nn.Conv2d(8, 6, 1)), left=6)


# -- spectra and complex numbers ------------------------------------------------------------------


@case("spectra")
def spectrum_along_time() -> nn.Module:
    return waves(lambda x: torch.fft.rfft(x, dim=-1).abs())


@case("spectra")
def global_filter() -> nn.Module:
    """A learned complex filter for each channel and frequency (GFNet)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x, dim=-1, norm="ortho")
        return torch.fft.irfft(
            spectrum * torch.view_as_complex(n.filter), n=x.size(-1), norm="ortho"
        )

    return waves(Part(forward, filter=weight(8, 10, 2)))


@case("spectra", "cut", IMAGE)
def convolution_of_the_spectrum() -> nn.Module:
    """Real and imaginary parts as channels (fast Fourier convolution)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        z = torch.fft.rfft2(x, norm="ortho")
        y = n.mix(torch.cat([z.real, z.imag], 1)).relu()
        real, imag = y.chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imag), s=x.shape[-2:], norm="ortho")

    return images(Part(forward, mix=nn.Conv2d(16, 12, 1)), left=6)


@case("spectra", "safe", LAST)
def transform_of_both_axes() -> nn.Module:
    """FNet: along the channels too."""
    return frames(lambda x: torch.fft.fft2(x).real)


@case("spectra", "cut", (2, 64))
def spectrogram_by_a_filterbank() -> nn.Module:
    """Windowed sines as kernels in a buffer; magnitude, mask, and back."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = F.conv1d(x.unsqueeze(1), n.kernel, stride=8)
        real, imag = y.chunk(2, 1)
        mask = n.net((real**2 + imag**2 + 1e-8).sqrt()).sigmoid()
        return F.conv_transpose1d(torch.cat([real * mask, imag * mask], 1), n.kernel, stride=8)[
            :, 0
        ]

    angle = 2 * math.pi * torch.arange(9)[:, None] * torch.arange(16) / 16
    kernel = (torch.cat([angle.cos(), angle.sin()]) * torch.hann_window(16)).unsqueeze(1)
    net = nn.Sequential(nn.Conv1d(9, 8, 1), nn.ReLU(), nn.Conv1d(8, 9, 1))
    return Part(forward, kernel=kernel, net=net)


@case("spectra", "cut", (2, 64))
def spectrogram_of_torch() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        window = torch.hann_window(16, dtype=x.dtype)
        z = torch.stft(x, 16, 8, window=window, return_complex=True)
        mask = n.net(z.abs().log1p()).sigmoid()
        return torch.istft(z * mask, 16, 8, window=window, length=x.size(-1))

    net = nn.Sequential(nn.Conv1d(9, 8, 3, padding=1), nn.PReLU(8), nn.Conv1d(8, 9, 1))
    return Part(forward, net=net)


@case("spectra", "cut", (2, 64))
def bands_of_a_spectrogram() -> nn.Module:
    """Bands of unequal widths, each with a layer of its own (band-split)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        z = torch.stft(x, 16, 8, window=torch.hann_window(16, dtype=x.dtype), return_complex=True)
        y = torch.view_as_real(z).permute(0, 2, 1, 3).flatten(2)
        bands = [layer(part) for layer, part in zip(n.bands, y.split([4, 6, 8], -1), strict=True)]
        y = torch.stack(bands, 2)
        y = y + n.rnn(y.flatten(0, 1))[0].view_as(y)
        return torch.cat([head(part) for head, part in zip(n.heads, y.unbind(2), strict=True)], -1)

    bands = nn.ModuleList(nn.Sequential(nn.RMSNorm(w), nn.Linear(w, 8)) for w in (4, 6, 8))
    heads = nn.ModuleList(nn.Linear(8, w) for w in (4, 6, 8))
    return Part(forward, bands=bands, heads=heads, rnn=nn.GRU(8, 8, batch_first=True))


@case("spectra", "cut", IMAGE)
def complex_convolution_by_parts() -> nn.Module:
    """Two real convolutions, crossed (DCCRN)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        real, imag = x.chunk(2, 1)
        return torch.cat([n.re(real) - n.im(imag), n.re(imag) + n.im(real)], 1)

    return images(Part(forward, re=nn.Conv2d(4, 6, 1), im=nn.Conv2d(4, 6, 1)), left=12)


@case("spectra", "safe", IMAGE)
def complex_linear_layer() -> nn.Module:
    """A product of complex numbers."""

    def forward(n: Any, x: Tensor) -> Tensor:
        z = torch.complex(x, x.flip(-1)).flatten(2).transpose(1, 2)
        w = torch.complex(n.re, n.im)
        return (z @ w).abs().transpose(1, 2).unflatten(2, (8, 8))

    return images(Part(forward, re=weight(8, 6), im=weight(8, 6)), left=6)


@case("spectra")
def phase_and_magnitude() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        z = torch.fft.fft(x, dim=2)
        return torch.fft.ifft(torch.polar(n.mix(z.abs()), z.angle()), dim=2).real

    return waves(Part(forward, mix=nn.Conv1d(8, 8, 1)))


@case("spectra")
def long_convolution_by_spectra() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        size = 2 * x.size(-1)
        spectrum = torch.fft.rfft(x, n=size) * torch.fft.rfft(n.kernel[:, : x.size(-1)], n=size)
        return torch.fft.irfft(spectrum, n=size)[..., : x.size(-1)]

    return waves(Part(forward, kernel=weight(8, 32)))


@case("spectra")
def autocorrelation() -> nn.Module:
    """Queries and keys meet in the frequency domain, channel by channel."""

    def forward(n: Any, x: Tensor) -> Tensor:
        q, k = torch.fft.rfft(n.q(x)), torch.fft.rfft(n.k(x))
        return x * torch.fft.irfft(q * k.conj(), n=x.size(-1)).mean(1, keepdim=True)

    return waves(Part(forward, q=nn.Conv1d(8, 8, 1), k=nn.Conv1d(8, 8, 1)))


@case("spectra", "cut", (2, 1, 20))
def masks_applied_to_an_encoder() -> nn.Module:
    """Conv-TasNet in small: a mask for each source over one representation."""

    def forward(n: Any, x: Tensor) -> Tensor:
        w = n.encoder(x).relu()
        m = n.masks(n.body(n.norm(w))).view(len(x), 2, -1, w.size(-1)).sigmoid()
        return n.decoder((w.unsqueeze(1) * m).flatten(0, 1)).view(len(x), 2, -1)

    held = {"encoder": nn.Conv1d(1, 8, 4, 2), "decoder": nn.ConvTranspose1d(8, 1, 4, 2)}
    body = around(nn.Conv1d(8, 6, 1), (nn.PReLU(), nn.GroupNorm(1, 6)), nn.Conv1d(6, 5, 1))
    return Part(forward, norm=nn.GroupNorm(1, 8), body=body, masks=nn.Conv1d(5, 16, 1), **held)
