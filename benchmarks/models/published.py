"""What was published of these models: figures of the SepPrune paper, names in authors' files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["PUBLISHED", "Published", "from_published"]


@dataclass(frozen=True)
class Published:
    """Complexity of a dense model in the paper's table: 1 s at 16 kHz, counted with ptflops.

    Attributes:
        params: Millions of parameters.
        macs: Billions of MACs, 1e9.
        separator_params: Of the separator, without its norms: ptflops did not count those.
        separator_macs: Of the separator.
        exact_params: Parameters, where the independent reproduction gives them.
    """

    params: float
    macs: float
    separator_params: float
    separator_macs: float
    exact_params: int | None = None


PUBLISHED = {
    "afrcnn-12": Published(5.13, 28.58, 4.22, 26.56, 5_127_688),
    "afrcnn-16": Published(5.13, 37.44, 4.22, 35.42),
    "sudormrf": Published(2.72, 4.65, 2.35, 3.57, 2_720_417),
    "tdanet": Published(2.35, 4.77, 2.29, 4.59, 2_353_479),
    "tdanet-large": Published(2.35, 9.20, 2.29, 9.09),
}

_NAMES = (("sm.unet.", "sm.blocks."), (".gamma", ".weight"), (".beta", ".bias"))
_COMPUTED = ("pos_enc.pe",)
_STORED = ("pos_enc.frequency", "pos_enc.phase")


def from_published(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of an authors' checkpoint the names that they have here.

    Args:
        state: The ``state_dict`` in the authors' file.
        own: ``model.state_dict()`` of the model here, for the constants that theirs lacks.

    Returns:
        A state dict for ``model.load_state_dict``.
    """
    found = {}
    for name, tensor in state.items():
        for theirs, ours in _NAMES:
            name = name.replace(theirs, ours)
        if not name.endswith(_COMPUTED):
            found[name] = tensor
    return found | {name: value for name, value in own.items() if name.endswith(_STORED)}
