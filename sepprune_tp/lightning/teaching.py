"""The dense model as a teacher in a training whose loss is somebody else's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp.distillation import Distillation
from sepprune_tp.errors import InputError

__all__ = ["Teaching"]


class Teaching:
    """Adds a comparison with the dense model's estimates to a loss, in training steps only.

    Neither the module nor its state dict get anything: forward hooks hear of the mixture and of the
    loss.
    """

    def __init__(
        self, module: nn.Module, student: nn.Module, dense: nn.Module, loss: str, weight: float
    ) -> None:
        """Begin.

        Args:
            module: Holds the loss.
            student: Its model.
            dense: The teacher.
            loss: Name of the attribute of ``module``.
            weight: Of the comparison.

        Raises:
            InputError: If the module has no such attribute.
        """
        self._compare = Distillation(dense, task_weight=0.0, waveform=weight)
        self._student, self._module, self._name = student, module, loss
        self._announced = False
        self._hooks = [student.register_forward_pre_hook(self._hear)]
        task = getattr(module, loss, None)
        self._task = None
        if isinstance(task, nn.Module):
            self._hooks.append(task.register_forward_hook(self._add))
        elif callable(task):
            self._task = task
            setattr(module, loss, self._taught)
        else:
            self.stop()
            raise InputError(
                f"distill={weight} adds to the loss that {type(module).__name__} calls as "
                f"self.{loss}(estimates, sources), and there is none. Give the name of the "
                "attribute: PruneCallback(..., loss='name'), or leave distill out."
            )

    def stop(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._compare.end()
        if self._task is not None:
            setattr(self._module, self._name, self._task)

    def _hear(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self._announced = model.training and torch.is_grad_enabled() and bool(args)
        if self._announced:
            self._compare.begin(args[0], model)

    def _add(self, loss: Any, args: tuple[Any, ...], value: Any) -> Any:
        if not self._announced or not isinstance(value, Tensor):
            return None
        self._announced = False
        return value + self._compare(args[0], args[1])

    def _taught(self, estimates: Tensor, sources: Tensor, *args: Any, **kwargs: Any) -> Any:
        assert self._task is not None
        value = self._task(estimates, sources, *args, **kwargs)
        taught = self._add(None, (estimates, sources), value)
        return value if taught is None else taught
