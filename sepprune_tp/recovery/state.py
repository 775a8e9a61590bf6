"""The state of a recovery, and how it is written so that a killed one goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sepprune_tp.errors import CheckpointError
from sepprune_tp.files import make_folder, write_tensors
from sepprune_tp.files.extent import short
from sepprune_tp.files.states import same
from sepprune_tp.files.torch_archives import read_plain
from sepprune_tp.recovery.checking import check_run

__all__ = ["RunState", "copied", "unusable"]

FORMAT = 1
MAY_CHANGE = {"steps", "max_minutes", "early_stop", "compile"}  # between a run and its resumption


@dataclass
class RunState:
    """All that a resumed run needs, as tensors and plain values.

    Attributes:
        settings: Of the run.
        fingerprint: Of the weights before it.
        best: Weights with the lowest validation loss.
        weights: Those at present; so are ``optimizer`` and ``plateau``, the rule of the rate.
        history: A record a validation.
        step: Steps done.
        seconds: Wall-clock time.
        stale: Validations since the best one.
        stopped: Why it ended.
        losses: Of the steps since the last validation.
        identity: Tells data and losses apart; what a run does not say of itself is None.
        format: Of the file.
    """

    settings: dict[str, Any]
    fingerprint: str
    best: dict[str, Any]
    weights: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    plateau: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    stale: int = 0
    stopped: str = ""
    losses: list[float] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def begin(
        cls,
        model: nn.Module,
        settings: dict[str, Any],
        fingerprint: str,
        folder: Path | None,
        resume: bool,
        identity: dict[str, Any],
    ) -> RunState:
        """A new run, or the one in the folder with its weights put into the model."""
        path = None if folder is None else folder / "last.pt"
        if path is None or not resume or not path.exists():
            best = copied(model.state_dict())
            return cls(settings, fingerprint, best, identity=identity)
        state = cls._load(path)
        old, new = (
            {k: v for k, v in s.items() if k not in MAY_CHANGE} for s in (state.settings, settings)
        )
        changed = [k for k in new if not same(new[k], old.get(k))]
        changed += [k for k in identity if not _agree(identity[k], state.identity.get(k))]
        changed += [] if same(state.fingerprint, fingerprint) else ["the model's weights"]
        if changed:
            raise CheckpointError(
                f"{path} is of another run: {', '.join(changed)} differ(s). Pass resume=False "
                "(--restart) to overwrite it, or another checkpoint_dir."
            )
        try:
            check_run(state, model)
            model.load_state_dict(state.weights)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(unusable(path, error)) from error
        state.settings, state.stopped = settings, ""
        return state

    @classmethod
    def _load(cls, path: Path) -> RunState:
        """Read a file that :meth:`save` wrote, executing no pickle."""
        try:
            values = read_plain(path)
            if not isinstance(values, dict) or not same(values["format"], FORMAT):
                raise ValueError(f"it has another format than {FORMAT}, which this version reads")
            state = cls(**values)
            if not (isinstance(state.settings, dict) and isinstance(state.identity, dict)):
                raise ValueError("its settings are none")
            return state
        except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(unusable(path, error)) from error

    def save(self, folder: Path) -> None:
        """Write ``last.pt`` and ``best.pt``, each to a temporary name first."""
        make_folder(folder)
        write_tensors(folder / "last.pt", {f.name: getattr(self, f.name) for f in fields(self)})
        write_tensors(folder / "best.pt", self.best)


def unusable(path: object, error: Exception) -> str:
    """The message for a file that is no state of a recovery."""
    return (
        f"Cannot resume from {path}: {short(error, 600)}. It is truncated, of another version or "
        "not a recovery checkpoint. Delete it, or pass resume=False to overwrite it."
    )


def _agree(one: Any, other: Any) -> bool:
    """Whether two may be of one run; None: nothing is known."""
    return one is None or other is None or same(one, other)


def copied(weights: dict[str, Any]) -> dict[str, Any]:
    """A state dict of its own memory, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
        for name, value in weights.items()
    }
