"""Norms that pool over channels take their statistics over the open ones only."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import cut, drawn, few, gated, law_rule, made, needs_asteroid
from torch import Tensor
from torch.nn import functional

from sepprune_tp.layers.pooling import pooled_frame_norm, pooled_group_norm

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [1, 3])
@few
@given(data=st.data())
def test_pooled_group_norm_is_that_of_the_slice(
    dtype: torch.dtype, groups: int, data: st.DataObject
) -> None:
    keep = drawn(data, 12, groups)
    x, gain, bias = norm_inputs((2, 12, 5, 8), dtype)
    expected = functional.group_norm(
        x[:, keep].double(), groups, gain[keep].double(), bias[keep].double(), eps=1e-5
    )
    found = pooled_group_norm(x, keep.to(x.dtype), gain, bias, 1e-5, groups)
    assert found.dtype == dtype and found.shape == x.shape
    assert torch.allclose(
        found[:, keep].double(), expected, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype]
    )
    if groups == 1 and int(keep.sum()) <= 6:  # a negative control: closed channels do count else
        all_open = pooled_group_norm(x, torch.ones(12, dtype=dtype), gain, bias, 1e-5, groups)
        assert not torch.allclose(all_open[:, keep].double(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("axis", [1, 3])
@few
@given(data=st.data())
def test_pooled_frame_norm_is_that_of_the_slice(
    dtype: torch.dtype, axis: int, data: st.DataObject
) -> None:
    keep = drawn(data, 12)
    x, gain, bias = norm_inputs((2, 12, 5, 8), dtype)
    expected = functional.layer_norm(
        x[:, keep].double().transpose(1, -1),
        (int(keep.sum()),),
        gain[keep].double(),
        bias[keep].double(),
    )
    y = pooled_frame_norm(x.transpose(1, axis), keep.to(x.dtype), gain, bias, 1e-5, axis)
    found = y.transpose(axis, 1)
    assert found.dtype == dtype
    found = found[:, keep].transpose(1, -1).double()
    assert torch.allclose(found, expected, atol=TOLERANCE[dtype] * 8, rtol=TOLERANCE[dtype])


def norm_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Channels of very different means and scales, gain and bias."""
    generator = torch.Generator().manual_seed(3)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    wide = (1, shape[1], 1, 1)
    x = noise(*shape) * noise(*wide).exp() + 2 * noise(*wide)
    return x.to(dtype), noise(shape[1]).to(dtype), noise(shape[1]).to(dtype)


@needs_asteroid
@pytest.mark.parametrize("name", ["gLN", "gLN-2d", "cLN", "cLN-2d", "cgLN"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_asteroid_norms_over_open_channels(name: str, dtype: torch.dtype) -> None:
    layer, x = made(name, dtype=torch.float64)
    keep = torch.tensor([True, False, True, True, False, False])
    rule = law_rule(layer)
    expected = cut(layer, rule, None, keep)(x[:, keep])
    low = copy.deepcopy(layer).to(dtype)
    with torch.no_grad():
        found = gated(rule, low, x.to(dtype), keep.to(dtype))
        dense = layer(x)
    assert found.dtype == dtype
    # bfloat16 holds 8 bits, and cgLN divides by the spread of very few values at the start
    bound = TOLERANCE[dtype] * (20 if name == "cgLN" else 4) * float(expected.abs().max())
    assert float((found[:, keep].double() - expected).abs().max()) < bound
    assert not torch.allclose(dense[:, keep], expected, atol=0.05)


def reference_norm(x: Tensor, mask: Tensor, gain: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Statistics with the mask as weight, written down plainly, over (B, C, T)."""
    parts = x.unflatten(1, (groups, -1))  # (B, G, C / G, T)
    weight = mask.view(groups, -1, 1)
    count = weight.sum((1, 2), keepdim=True) * x.shape[-1]
    mean = (parts * weight).sum((2, 3), keepdim=True) / count
    spread = ((parts - mean).square() * weight).sum((2, 3), keepdim=True) / count
    normed = ((parts - mean) / (spread + 1e-5).sqrt()).flatten(1, 2)
    return normed * gain[:, None] + bias[:, None]


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_pooled_group_norm(groups: int) -> None:
    """Of everything, also with gates between 0 and 1, against autograd on the plain formula."""
    x, gain, bias = (
        t[0, ..., 0] if t.dim() > 1 else t for t in norm_inputs((2, 6, 5, 8), torch.float64)
    )
    x = x.expand(2, 6, 5) * torch.tensor([1.0, -0.7], dtype=torch.float64)[:, None, None]
    mask = torch.tensor([1.0, 0.0, 0.3, 1.0, 0.8, 0.0], dtype=torch.float64)
    leaves = [t.detach().clone().requires_grad_() for t in (x, mask, gain, bias)]

    def ours(*args: Tensor) -> Tensor:
        return pooled_group_norm(*args, 1e-5, groups)

    found, expected = ours(*leaves), reference_norm(*leaves, groups)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    direction = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
    for one, other in zip(
        torch.autograd.grad(found, leaves, direction),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)
        assert float(one.abs().max()) > 1e-3
    assert torch.autograd.gradcheck(ours, leaves)


def test_gradients_of_pooled_frame_norm() -> None:
    x, gain, bias = norm_inputs((2, 6, 3, 4), torch.float64)
    mask = torch.tensor([1.0, 0.0, 0.3, 1.0, 0.8, 0.0], dtype=torch.float64)
    leaves = [t.detach().clone().requires_grad_() for t in (x, mask, gain, bias)]
    assert torch.autograd.gradcheck(lambda *args: pooled_frame_norm(*args, 1e-5, 1), leaves)


@pytest.mark.parametrize("norm", ["group", "frame"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sample_that_closes_every_channel_stays_finite(norm: str, dtype: torch.dtype) -> None:
    """It is drawn now and then where a group is small; who reads the channels multiplies by 0."""
    x, gain, bias = norm_inputs((2, 3, 5, 8), dtype)
    gates = torch.zeros(3, requires_grad=True)
    x.requires_grad_()
    if norm == "group":
        y = pooled_group_norm(x, gates, gain, bias, 1e-8)
    else:
        y = pooled_frame_norm(x, gates, gain, bias, 1e-8, 1)
    read = (y * gates.view(1, 3, 1, 1)).float().sum()
    found = torch.autograd.grad(read, (x, gates))
    assert bool(torch.isfinite(y).all()) and all(bool(torch.isfinite(g).all()) for g in found)
