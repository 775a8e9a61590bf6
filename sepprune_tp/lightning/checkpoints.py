"""Lightning's checkpoints of pruned models: what they need beside weights, and loading them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sepprune_tp._unwrap import unwrapped
from sepprune_tp.checkpoint.fitting import check_kinds
from sepprune_tp.checkpoint.form import Form, give_form
from sepprune_tp.checkpoint.structure import named_tensors
from sepprune_tp.errors import CheckpointError, InputError
from sepprune_tp.files.extent import short
from sepprune_tp.files.torch_archives import read_plain
from sepprune_tp.lightning.optimisers import ParameterNames

__all__ = ["KEY", "ModuleHooks", "load_weights", "model_in", "reshape"]

KEY = "sepprune_tp"  # of what a checkpoint holds for us
_HOOKS = ("on_load_checkpoint", "on_save_checkpoint")


def model_in(module: nn.Module, name: str) -> nn.Module:
    """The model that a module trains.

    Args:
        module: A LightningModule.
        name: Of its attribute.

    Raises:
        InputError: If it has none of that name.
    """
    model = getattr(module, name, None)
    if not isinstance(model, nn.Module):
        children = ", ".join(name for name, _ in module.named_children()) or "none"
        raise InputError(
            f"{type(module).__name__} has no model called '{name}' to prune. Its parts are: "
            f"{children}. Give the name of one: model='...'."
        )
    return unwrapped(model)


def reshape(module: nn.Module, name: str, checkpoint: dict[str, Any]) -> ParameterNames | None:
    """Give a module's model the shapes of a checkpoint, dense or pruned.

    Args:
        module: A LightningModule.
        name: Of the attribute that holds the model.
        checkpoint: Of Lightning's.

    Returns:
        The parameters before, if there are new ones.

    Raises:
        CheckpointError: If the shapes differ and the checkpoint does not say how to get them.
    """
    model = model_in(module, name)
    prefix = next(f"{path}." for path, part in module.named_modules() if part is model)
    weights: dict[str, Tensor] = {
        key.removeprefix(prefix): value
        for key, value in checkpoint["state_dict"].items()
        if isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
    }
    content = checkpoint.get(KEY, {})
    form: Form | None = content.get("form") if isinstance(content, Mapping) else None
    before = ParameterNames(module)
    if form is not None:
        return before if give_form(model, form, weights) else None
    for key, tensor in named_tensors(model):
        if key in weights and weights[key].shape != tensor.shape:
            raise CheckpointError(
                f"'{prefix}{key}' has the shape {tuple(weights[key].shape)} in the checkpoint and "
                f"{tuple(tensor.shape)} in the model, and the checkpoint does not say how the "
                "model was pruned: it was written without PruneCallback. Load one that was "
                "written with it."
            )
    return None


def load_weights(
    module: nn.Module, path: str | Path | dict[str, Any], model: str = "model"
) -> nn.Module:
    """Load a checkpoint that a trainer with ``PruneCallback`` wrote, without a trainer.

    Args:
        module: A LightningModule, such as Asteroid's ``System``, around the dense model or one
            pruned in any way. Changed in place.
        path: The file, which is read without executing a pickle; or what you read from it.
        model: Name of the attribute that holds the model.

    Returns:
        The model, pruned as it was in the file; :func:`~sepprune_tp.save_pruned` keeps it.

    Raises:
        CheckpointError: If the file cannot be read, or is of another model.
    """
    checkpoint = path if isinstance(path, dict) else _read(path)
    where = "The checkpoint" if isinstance(path, dict) else str(path)
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise CheckpointError(
            f"{where} holds no 'state_dict' of weights by name. Give a file that a trainer wrote."
        )
    reshape(module, model, checkpoint)
    check_kinds(module, {k: v for k, v in weights.items() if isinstance(v, Tensor)}, where)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{where} is not of this {type(module).__name__}: {short(error, 1000)}. Build "
            "the model with the arguments that it had in the run that wrote the file."
        ) from error
    return model_in(module, model)


def _read(path: str | Path) -> dict[str, Any]:
    try:
        checkpoint = read_plain(Path(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"Cannot read {path} as a checkpoint of Lightning: {error} Or pass what "
            "torch.load(path, weights_only=False) returns."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"Cannot read {path} as a checkpoint of Lightning: it holds a "
            f"{type(checkpoint).__name__}. Give a file that a trainer wrote."
        )
    return checkpoint


class ModuleHooks:
    """Hears of a module's checkpoints before the module does.

    Lightning tells callbacks of a checkpoint once the weights are loaded, which is too late for
    shapes, and tells them nothing of checkpoints that hold weights alone. It tells the module.
    """

    def __init__(
        self,
        module: Any,
        load: Callable[[dict[str, Any]], None],
        save: Callable[[dict[str, Any]], None],
    ) -> None:
        """Begin to hear.

        Args:
            module: A LightningModule.
            load: Called with a checkpoint before its weights are loaded.
            save: Called with a checkpoint before it is written.
        """
        self._module = module
        self._own = {name: vars(module).get(name) for name in _HOOKS}
        for name, ours in zip(_HOOKS, (load, save), strict=True):
            setattr(module, name, _Both(ours, getattr(module, name)))

    def stop(self) -> None:
        """Leave the module as it was."""
        for name, own in self._own.items():
            delattr(self._module, name)
            if own is not None:
                setattr(self._module, name, own)


class _Both:
    """Calls two functions one after the other."""

    def __init__(self, first: Callable[[Any], None], then: Callable[[Any], Any]) -> None:
        self._first, self._then = first, then

    def __call__(self, checkpoint: dict[str, Any]) -> Any:
        self._first(checkpoint)
        return self._then(checkpoint)
