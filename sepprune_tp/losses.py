"""Scale-invariant signal-to-distortion ratio, and the loss that trains a separator with it.

Letters: B batch, S sources, T time. Ratios are in dB.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from sepprune_tp.errors import InputError

__all__ = ["best_permutation", "pit_neg_si_sdr", "pit_si_sdr", "si_sdr"]

MAX_SOURCES = 4
EPS = 1e-8


def si_sdr(estimates: Tensor, sources: Tensor) -> Tensor:
    """Scale-invariant SDR of each estimate against the source of the same index.

    Both are made zero-mean over time. Low-precision input is computed in float32. Energies get
    1e-8 added, so that a silent source or estimate gives a finite ratio with a finite gradient.

    Args:
        estimates: ``(B, S, T)``, any scale.
        sources: ``(B, S, T)``.

    Returns:
        ``(B, S)`` in dB.

    Raises:
        InputError: If the shapes differ or are not ``(B, S, T)``.

    Source:
        Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, equation 2.
    """
    _check_shapes(estimates, sources)
    with torch.autocast(estimates.device.type, enabled=False):
        estimates, sources = _zero_mean(estimates), _zero_mean(sources)
        energy = sources.square().sum(-1, keepdim=True)
        target = (estimates * sources).sum(-1, keepdim=True) / (energy + EPS) * sources
        distortion = (estimates - target).square().sum(-1)
        return 10 * ((target.square().sum(-1) + EPS).log10() - (distortion + EPS).log10())


def pit_si_sdr(estimates: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """SI-SDR under the assignment of estimates to sources with the best mean.

    Args:
        estimates: ``(B, S, T)`` in any order, S up to 4.
        sources: ``(B, S, T)``.

    Returns:
        The SI-SDR by source, ``(B, S)`` in dB, and the permutation ``(B, S)``: source ``s`` of
        batch item ``b`` is estimated by ``estimates[b, permutation[b, s]]``.

    Raises:
        InputError: If the shapes differ, are not ``(B, S, T)``, or S is above 4.
    """
    _check_shapes(estimates, sources)
    count = sources.shape[1]
    if count > MAX_SOURCES:
        raise InputError(
            f"Permutation-invariant SI-SDR got {count} sources (shape {tuple(sources.shape)}); it "
            f"tries every permutation, so at most {MAX_SOURCES} are supported. Expected (B, S, T): "
            "was a dimension swapped?"
        )
    with torch.no_grad(), torch.autocast(estimates.device.type, enabled=False):
        pairs = _pairwise_si_sdr(_zero_mean(estimates), _zero_mean(sources))  # (B, S, S)
        orders = torch.tensor(list(permutations(range(count))), device=pairs.device)  # (P, S)
        scores = pairs[:, torch.arange(count, device=pairs.device), orders]  # (B, P, S)
        order = orders[scores.mean(-1).argmax(-1)]  # (B, S)
    return si_sdr(_reorder(estimates, order), sources), order


def best_permutation(estimates: Tensor, sources: Tensor) -> Tensor:
    """Reorder the estimates so that each stands at the index of its source.

    Args:
        estimates: ``(B, S, T)`` in any order, S up to 4.
        sources: ``(B, S, T)``.

    Returns:
        ``(B, S, T)``: the estimates in the order of the sources with the best mean SI-SDR.

    Raises:
        InputError: As :func:`pit_si_sdr`.
    """
    _, order = pit_si_sdr(estimates, sources)
    return _reorder(estimates, order)


def pit_neg_si_sdr(estimates: Tensor, sources: Tensor) -> Tensor:
    """Permutation-invariant training loss: negative SI-SDR of the best assignment.

    Args:
        estimates: ``(B, S, T)`` in any order, S up to 4.
        sources: ``(B, S, T)``.

    Returns:
        Scalar in dB, the mean over batch and sources; lower is better.

    Raises:
        InputError: As :func:`pit_si_sdr`.

    Source:
        Yu et al., "Permutation invariant training of deep models for speaker-independent
        multi-talker speech separation", ICASSP 2017.
    """
    return -pit_si_sdr(estimates, sources)[0].mean()


def _pairwise_si_sdr(estimates: Tensor, sources: Tensor) -> Tensor:
    """SI-SDR of every source (dim 1) against every estimate (dim 2): ``(B, S, S)``, no gradient.

    From inner products alone: the projection of the estimate on the source holds the share ``c``
    of the estimate's energy, with ``c`` the squared cosine, so the ratio is ``c / (1 - c)``. That
    is exact enough to choose by, and costs no ``(B, S, S, T)``.
    """
    dot = sources @ estimates.transpose(1, 2)
    energies = estimates.square().sum(-1).unsqueeze(1) * sources.square().sum(-1).unsqueeze(2)
    cosine = dot.square() / (energies + EPS**2)
    return 10 * ((cosine + EPS).log10() - ((1 - cosine).clamp(min=0) + EPS).log10())


def _reorder(estimates: Tensor, order: Tensor) -> Tensor:
    """Estimates ``(B, S, T)`` in the order ``(B, S)``."""
    return estimates.gather(1, order[..., None].expand_as(estimates))


def _zero_mean(signal: Tensor) -> Tensor:
    """Remove the mean over time, in float32 or better."""
    signal = signal if signal.dtype == torch.float64 else signal.float()
    return signal - signal.mean(-1, keepdim=True)


def _check_shapes(estimates: Tensor, sources: Tensor) -> None:
    """Refuse anything but two equal ``(B, S, T)`` shapes."""
    if estimates.shape == sources.shape and sources.ndim == 3 and sources.numel():
        return
    raise InputError(
        f"SI-SDR needs estimates and sources of one shape (B, S, T) with no empty dimension, got "
        f"estimates {tuple(estimates.shape)} and sources {tuple(sources.shape)}. Check that the "
        "model returns one signal per source and as many samples as it reads."
    )
