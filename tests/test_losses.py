"""SI-SDR and its permutation-invariant loss against an independent reference and identities."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from sepprune_tp.errors import InputError, SepPruneError
from sepprune_tp.losses import best_permutation, pit_neg_si_sdr, pit_si_sdr, si_sdr


def signals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def noisy(sources: Tensor, level: float = 0.3, seed: int = 9) -> Tensor:
    return sources + level * signals(*sources.shape, seed=seed, dtype=sources.dtype)


def test_matches_reference_implementation() -> None:
    reference = pytest.importorskip("fast_bss_eval")
    sources = signals(3, 2, 500)
    estimates = noisy(sources)
    expected = reference.si_sdr(
        sources, estimates.flip(1), zero_mean=True, clamp_db=100, return_perm=False
    )
    values, order = pit_si_sdr(estimates.flip(1), sources)
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
    assert order.tolist() == [[1, 0]] * 3


def test_known_value() -> None:
    source = torch.zeros(1, 1, 4, dtype=torch.float64)
    source[0, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    distortion = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    assert si_sdr(source + 0.1 * distortion, source).item() == pytest.approx(20, abs=1e-5)


@pytest.mark.parametrize("change", [lambda s: 5 * s, lambda s: s + 3, lambda s: -s])
def test_ignores_scale_offset_and_sign(change: object) -> None:
    assert callable(change)
    sources = signals(2, 2, 300)
    estimates = noisy(sources)
    torch.testing.assert_close(
        si_sdr(change(estimates), sources), si_sdr(estimates, sources), atol=1e-6, rtol=0
    )
    worse = si_sdr(noisy(sources, 0.6), sources)
    assert (worse < si_sdr(estimates, sources) - 3).all(), "negative control: more noise is worse"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_permutation_is_found_for_every_order(count: int) -> None:
    sources = signals(1, count, 400)
    expected = si_sdr(noisy(sources), sources)
    for order in permutations(range(count)):
        shuffled = noisy(sources)[:, list(order)]
        values, found = pit_si_sdr(shuffled, sources)
        torch.testing.assert_close(values, expected)
        assert torch.equal(best_permutation(shuffled, sources), noisy(sources))
        assert [order[i] for i in found[0]] == list(range(count))
    if count > 1:
        assert si_sdr(noisy(sources).roll(1, 1), sources).mean() < expected.mean() - 10


def test_each_batch_item_has_its_own_permutation() -> None:
    sources = signals(2, 3, 400)
    estimates = noisy(sources)
    mixed = torch.stack([estimates[0].flip(0), estimates[1].roll(1, 0)])
    assert pit_neg_si_sdr(mixed, sources).item() == pytest.approx(
        -si_sdr(estimates, sources).mean().item()
    )


def test_gradient_agrees_with_finite_differences() -> None:
    sources = signals(1, 2, 12)
    estimates = noisy(sources).flip(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: pit_neg_si_sdr(e, sources), (estimates,))


@pytest.mark.parametrize("silent", ["source", "estimate", "both"])
def test_silence_keeps_loss_and_gradient_finite(silent: str) -> None:
    sources = signals(1, 2, 200, dtype=torch.float32)
    estimates = noisy(sources)
    if silent != "estimate":
        sources[:, 0] = 0
    if silent != "source":
        estimates[:, 0] = 0
    estimates.requires_grad_()
    loss = pit_neg_si_sdr(estimates, sources)
    loss.backward()
    assert torch.isfinite(loss)
    assert estimates.grad is not None and torch.isfinite(estimates.grad).all()


def test_perfect_estimate_is_finite_and_high() -> None:
    sources = signals(1, 2, 8000, dtype=torch.float32)
    assert 80 < si_sdr(sources.clone(), sources).min().item() < 200


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    sources = signals(2, 2, 4000, dtype=torch.float32)
    estimates = noisy(sources)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pit_neg_si_sdr(estimates, sources)
        low = pit_neg_si_sdr(estimates.to(dtype), sources.to(dtype))
    assert inside.dtype == low.dtype == torch.float32
    assert torch.equal(inside, pit_neg_si_sdr(estimates, sources))
    assert low.item() == pytest.approx(inside.item(), abs=0.05)


def test_float32_agrees_with_float64() -> None:
    sources = signals(2, 2, 16000)
    estimates = noisy(sources, 1e-3)
    low = si_sdr(estimates.float(), sources.float()).double()
    torch.testing.assert_close(low, si_sdr(estimates, sources), atol=1e-3, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    sources = signals(2, 3, 1000, dtype=torch.float32)
    estimates = noisy(sources).flip(1)
    on_gpu = pit_neg_si_sdr(estimates.cuda(), sources.cuda())
    assert on_gpu.item() == pytest.approx(pit_neg_si_sdr(estimates, sources).item(), abs=1e-3)


@pytest.mark.parametrize(
    ("estimates", "sources"),
    [((2, 2, 100), (2, 2, 99)), ((2, 100), (2, 100)), ((2, 3, 100), (2, 2, 100)), ((0, 2, 9),) * 2],
)
def test_wrong_shapes_name_both(estimates: tuple[int, ...], sources: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        pit_neg_si_sdr(torch.zeros(estimates), torch.zeros(sources))
    assert str(estimates) in str(caught.value) and str(sources) in str(caught.value)
    assert isinstance(caught.value, (SepPruneError, ValueError))


def test_too_many_sources() -> None:
    with pytest.raises(InputError, match=r"got 5 sources .* at most 4"):
        pit_neg_si_sdr(torch.zeros(1, 5, 10), torch.zeros(1, 5, 10))
