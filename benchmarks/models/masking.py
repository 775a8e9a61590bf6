"""The frame around every separator here: learned filters, a mask for each source, filters back."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import norm_of

__all__ = ["MaskingModel"]


class MaskingModel(nn.Module):
    """Mixture (B, T) or (B, 1, T) -> estimates (B, S, T), for any T.

    The encoder's representation is normed and narrowed, ``sm`` separates, ``mask_net`` makes a
    non-negative mask of every filter for every source, and the decoder turns all masked
    representations into the S signals (its weights may mix them, as published).

    Attributes:
        encoder: Filters of the mixture.
        sm: The separation module, (B, bottleneck, frames) -> the same.
        decoder: Filters back to signals.
    """

    def __init__(
        self,
        sm: nn.Module,
        *,
        sources: int,
        basis: int,
        bottleneck: int,
        kernel: int,
        stride: int,
        multiple: int,
        margin: int = 0,
    ) -> None:
        """Put encoder, mask and decoder around a separator.

        Args:
            sm: The separator.
            sources: Signals to find.
            basis: Filters of encoder and decoder.
            bottleneck: Channels of the separator.
            kernel: Samples of a filter.
            stride: Samples between frames.
            multiple: The signal is padded at its end to a multiple of so many samples.
            margin: Zeros before and after that, so that the edges are seen as often as the middle.
        """
        super().__init__()
        self.sources, self.multiple, self.margin = sources, multiple, margin
        shape = {"kernel_size": kernel, "stride": stride, "padding": kernel // 2, "bias": False}
        self.encoder = nn.Conv1d(1, basis, **shape)
        self.ln = norm_of(basis)
        self.bottleneck = nn.Conv1d(basis, bottleneck, 1)
        self.sm = sm
        self.mask_net = nn.Sequential(nn.PReLU(), nn.Conv1d(bottleneck, sources * basis, 1))
        odd = kernel % 2  # then the last frame reaches one sample less far back
        self.decoder = nn.ConvTranspose1d(
            sources * basis, sources, output_padding=(stride - 1) * odd, **shape
        )
        for filters in (self.encoder, self.decoder):
            nn.init.xavier_uniform_(filters.weight)

    def padding(self, samples: int) -> int:
        """Zeros to add at the end of a signal of so many samples, the margin aside."""
        return -samples % self.multiple

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate mixtures.

        Args:
            mixture: (B, T) or (B, 1, T).

        Returns:
            Estimates, (B, S, T).
        """
        signal = mixture.unsqueeze(1) if mixture.dim() == 2 else mixture
        samples = signal.shape[-1]
        signal = F.pad(signal, (self.margin, self.margin + self.padding(samples)))
        encoded = self.encoder(signal)
        features = self.sm(self.bottleneck(self.ln(encoded)))
        masks = self.mask_net(features).relu().unflatten(1, (self.sources, -1))
        estimates: Tensor = self.decoder((masks * encoded.unsqueeze(1)).flatten(1, 2))
        return estimates[..., self.margin : self.margin + samples]
