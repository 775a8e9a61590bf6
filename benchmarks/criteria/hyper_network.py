"""What UDSP's gates come from: a hyper-network for the static ones, the mixture for the others.

Letters: G groups, N gates of all groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["OFFSET", "DynamicGates", "HyperNetwork", "excess", "gumbel_sigmoid", "seeded"]

WIDTH, HIDDEN = 64, 128  # of a group's fixed input, of each direction of the GRU
OFFSET, TEMPERATURE = 3.0, 0.4  # sigmoid(3 / 0.4) = 0.9994: all gates are open at the start
BANDS, WINDOW = 32, 256  # of a mixture's spectrum; samples


class HyperNetwork(nn.Module):
    """Fixed random inputs, one a group, to the logits of all static gates.

    Source:
        Gao et al., "Network pruning via performance maximization", CVPR 2021, section 3.2, and the
        group's later papers: a GRU over layers, layer norm, ReLU, a linear head a layer; orthogonal
        inputs that are not trained; logits shifted so that everything is open at first.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """Make one head a group.

        Args:
            sizes: Channels of each group.
        """
        super().__init__()
        inputs = nn.init.orthogonal_(torch.empty(len(sizes), WIDTH))
        self.register_buffer("inputs", inputs)
        self.across = nn.GRU(WIDTH, HIDDEN, bidirectional=True)
        self.norm = nn.LayerNorm(2 * HIDDEN)
        self.heads = nn.ModuleList(nn.Linear(2 * HIDDEN, size, bias=False) for size in sizes)

    def forward(self) -> Tensor:
        """Logits of all gates, shape (N,), before the offset."""
        seen = torch.relu(self.norm(self.across(self.inputs)[0]))
        return torch.cat([head(row) for head, row in zip(self.heads, seen, strict=True)])


class DynamicGates(nn.Module):
    """The mean spectrum of a mixture to the logits of its own gates."""

    def __init__(self, count: int) -> None:
        """Make a small network of two layers.

        Args:
            count: N.
        """
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(BANDS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, count))

    def forward(self, mixture: Tensor) -> Tensor:
        """Mixture (1, T) to logits (N,), before the offset."""
        window = torch.hann_window(WINDOW, device=mixture.device)
        spectrum = torch.stft(mixture, WINDOW, window=window, return_complex=True).abs()
        bands = nn.functional.adaptive_avg_pool1d(spectrum.square().mean(-1), BANDS)
        level = torch.log(bands + 1e-8)
        logits: Tensor = self.layers((level - level.mean()) / (level.std() + 1e-3))
        return logits[0]


def gumbel_sigmoid(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Gates 0 or 1 of shifted logits plus Gumbel noise; gradients pass straight through.

    Source:
        Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017.

    Args:
        logits: Shape (N,).
        generator: Of the noise, on the CPU.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    noise = -torch.log(-torch.log(uniform)).to(logits.device)
    soft = torch.sigmoid((logits + noise + OFFSET) / TEMPERATURE)
    return soft.round() + soft - soft.detach()


def excess(cost: Tensor, bound: Tensor | float) -> Tensor:
    """R = log(max(cost, bound) / bound), in dB like the task loss; 0 where the bound is met."""
    return 10 / math.log(10) * torch.log((cost / bound).clamp(min=1))


def seeded(seed: int, sizes: Sequence[int]) -> tuple[HyperNetwork, DynamicGates]:
    """Both networks, their weights of a seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HyperNetwork(sizes), DynamicGates(sum(sizes))
