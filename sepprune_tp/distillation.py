"""Distillation: train a pruned or gated model to do what its dense model does.

A teacher knows more than the sources say: how its errors sound, and what its layers compute on the
way. It needs no clean sources either.

Letters: B batch, S sources, T time. All terms are in dB, so that weights compare like with like.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._modes import eval_mode
from ._unwrap import unwrapped
from .errors import InputError
from .gates import GateSet
from .graph.kept import KeptChannels
from .identity import fingerprint, loss_identity
from .layers import rule_of
from .layers.composite import named_layers, run_by_parts
from .losses import best_permutation, pit_neg_si_sdr

__all__ = ["Distillation", "announce", "dismissed", "task_of"]

Loss = Callable[[Tensor, Tensor], Tensor]
_FLOOR = 1e-3  # of an error relative to its target: 30 dB are as good as equal


@dataclass
class _Target:
    """What a teacher gave for one mixture (which is held, so that it can be known again)."""

    mixture: Tensor
    estimates: Tensor
    features: dict[str, Tensor]


class Distillation:
    """A loss ``(estimates, sources) -> scalar`` that also compares a model with its teacher.

    ``learn_gates`` and ``finetune`` take it as ``loss=``; they call :meth:`begin` with each mixture
    before the model runs. In a loop of your own, do the same, and :meth:`end` if the model failed.

    The sum of ``task_weight * task(estimates, sources)``, ``waveform`` times the negative SI-SDR of
    the estimates with the teacher's for reference, up to 30 dB, and for each compared layer its
    weight times the error of its output relative to that of the teacher's, down to -30 dB. Layers
    are named in ``features``, or they are those that pruning took inputs from (``layers``): a step
    then says of each what it should have given, not only what came out in the end.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> teacher, student = nn.Conv1d(1, 2, 5, padding=2), nn.Conv1d(1, 2, 5, padding=2)
        >>> loss = Distillation(teacher)
        >>> mixture, sources = torch.randn(4, 1, 100), torch.randn(4, 2, 100)
        >>> loss.begin(mixture, student)
        >>> loss(student(mixture), sources).backward()

    Source:
        Hinton et al., "Distilling the knowledge in a neural network", arXiv 1503.02531, 2015, with
        waveforms for classes; Romero et al., "FitNets", ICLR 2015, equation 3, for features; the
        bound on the ratio is equation 2 of Wisdom et al., "Unsupervised sound separation using
        mixture invariant training", NeurIPS 2020.
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        task: Loss = pit_neg_si_sdr,
        *,
        task_weight: float = 1.0,
        waveform: float = 1.0,
        features: Mapping[str, float] | Iterable[str] = (),
        layers: float = 0.0,
        kept: KeptChannels | GateSet | None = None,
        align: bool = False,
        cache: int = 0,
    ) -> None:
        """Say what to compare.

        Args:
            teacher: The dense model. None, for ``learn_gates`` only: the model that is searched,
                with all gates open; no second copy is needed.
            task: The loss on the sources.
            task_weight: Of the task; 0 leaves the sources out.
            waveform: Weight of the comparison of estimates.
            features: Names of layers whose outputs are compared, with their weights or 1 each.
            layers: Weight, shared evenly, of all layers that had lost inputs when the loss was
                first used; ``kept`` has to say which. For :func:`~sepprune_tp.recovery.finetune`.
            kept: For layers whose channels are pruned or gated: which ones are left, or the gates:
                a channel then counts as much as its gate is open.
            align: Compare under the best permutation of the sources rather than in the teacher's
                order. A model that started from the teacher's weights keeps its order.
            cache: Batches whose targets are remembered, for a list of batches that is gone
                through several times.

        Raises:
            InputError: If nothing is weighted, a weight is negative, or ``layers`` comes without
                a teacher and ``KeptChannels``.
        """
        names = features if isinstance(features, Mapping) else dict.fromkeys(features, 1.0)
        weights = [task_weight, waveform, layers, *names.values()]
        if min(weights) < 0 or not any(weights):
            raise InputError(
                f"Distillation got the weights {weights} (task, waveform, layers, features); none "
                "may be negative and one has to be above 0."
            )
        if layers and (teacher is None or not isinstance(kept, KeptChannels)):
            raise InputError(
                f"layers={layers} compares the layers that lost inputs with the dense model's: "
                "give it as teacher, and kept=KeptChannels(model), made before the model was "
                "pruned. In a search, name layers in features instead."
            )
        self.teacher = None if teacher is None else unwrapped(teacher)
        self.task, self.task_weight, self.waveform = task, float(task_weight), float(waveform)
        self.features = {name: float(weight) for name, weight in names.items()}
        self.layers, self.align = float(layers), align
        self._kept, self._cache_size = kept, cache
        self._cache: OrderedDict[int, _Target] = OrderedDict()
        self._target: _Target | None = None
        self._compared = self.features  # and those that lost inputs, once they are known
        self._seen: dict[str, Tensor] = {}
        self._listening = ExitStack()

    def identity(self) -> str:
        """Changes with the weights, the teacher and the task."""
        teacher = "" if self.teacher is None else fingerprint(self.teacher)[:16]
        told = (
            self.task_weight,
            self.waveform,
            sorted(self.features.items()),
            self.layers,
            self.align,
        )
        return f"Distillation of {teacher or 'itself'} {told}, {loss_identity(self.task)}"

    def check_training(self, compiled: bool) -> None:
        """Refuse what cannot train a model.

        Args:
            compiled: Whether the model runs through ``torch.compile``.

        Raises:
            InputError: If there is no teacher, or layers are compared whose outputs compiled code
                does not show.
        """
        if self.teacher is None:
            raise InputError(
                "Distillation without a teacher compares a gated model with itself, all gates "
                "open. To fine-tune, give the dense model: Distillation(dense)."
            )
        if compiled and (self.features or self.layers):
            named = ", ".join(self.features) or "those that lost inputs"
            raise InputError(
                f"compile=True hides the outputs of layers that Distillation compares ({named}). "
                "Use compile=False, or leave features and layers out."
            )

    def begin(self, mixture: Tensor, model: nn.Module) -> None:
        """Run the teacher, and listen to the named layers of the model until the loss is taken.

        Args:
            mixture: What the model is about to be called with.
            model: The student; without a teacher also the teacher, as it is at this moment.

        Raises:
            InputError: If a named layer is missing, or no layer lost inputs where such are to be
                compared.
        """
        self.end()
        model = unwrapped(model)
        if self.layers and self._compared is self.features:
            self._compared = self.features | self._shares()
        self._target = self._targets(mixture, model if self.teacher is None else self.teacher)
        self._seen = {}
        self._listen(self._named(model), self._seen, self._listening)

    def __call__(self, estimates: Tensor, sources: Tensor) -> Tensor:
        """The weighted sum, in dB; lower is better.

        Args:
            estimates: ``(B, S, T)``, of the mixture that was announced.
            sources: ``(B, S, T)``.

        Raises:
            InputError: If :meth:`begin` was not called before.
        """
        target, seen = self._target, self._seen
        self.end()
        if target is None:
            raise InputError(
                "Distillation does not know the mixture: call begin(mixture, model) before the "
                "model runs, once for each loss. learn_gates and finetune do."
            )
        total = estimates.new_zeros(())
        if self.task_weight:
            total = total + self.task_weight * self.task(estimates, sources)
        if self.waveform:
            wanted = target.estimates
            if self.align:
                estimates = best_permutation(estimates, wanted)
            total = total + self.waveform * _bounded(estimates, wanted)
        for name, weight in self._compared.items():
            if name not in seen:
                raise InputError(f"the layer '{name}' did not run, so it cannot be compared")
            pair = self._opened(name, seen[name], target.features[name])
            total = total + weight * _relative_error(*pair, name)
        return total

    def end(self) -> None:
        """Stop listening to the model, where no loss is going to be taken; may be repeated."""
        self._listening.close()
        self._target = None

    def _targets(self, mixture: Tensor, teacher: nn.Module) -> _Target:
        known = self._cache.get(id(mixture))
        if known is not None and known.mixture is mixture:
            return known
        found: dict[str, Tensor] = {}
        layers = self._named(teacher)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(eval_mode(teacher))
            self._listen(layers, found, stack)
            parameter = next(teacher.parameters())
            if parameter.device != mixture.device:
                teacher.to(mixture.device)
            estimates = teacher(mixture).detach()
        features = {name: self._left(name, layers[name], y) for name, y in found.items()}
        target = _Target(mixture, estimates, features)
        if self._cache_size:
            self._cache[id(mixture)] = target
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return target

    def _listen(
        self, layers: Mapping[str, nn.Module], into: dict[str, Tensor], stack: ExitStack
    ) -> None:
        """Keep what the compared layers give until the stack is closed."""
        if not self._compared:
            return
        parents = (name.rpartition(".")[0] for name in self._compared)
        hosts = {layers[name]: None for name in parents if name in layers}
        stack.enter_context(run_by_parts(hosts))  # others keep their own, faster forward
        for name in self._compared:
            stack.callback(layers[name].register_forward_hook(_Keep(name, into)).remove)

    def _shares(self) -> dict[str, float]:
        """The layers that lost inputs and are not named, with an even share of their weight."""
        assert self.teacher is not None and isinstance(self._kept, KeptChannels)
        lost = []
        for name, layer in named_layers(self.teacher):
            rule = rule_of(layer)
            if rule is None or rule.relation != "maps" or name in self.features:
                continue
            count = rule.n_in(layer)
            if self._kept.inputs(name, count).numel() < count:
                lost.append(name)
        if not lost:
            raise InputError(
                f"layers={self.layers} compares nothing: no layer of {type(self.teacher).__name__} "
                "lost inputs (beside those named in features). Make KeptChannels of the model "
                "before it is pruned, and use the loss after."
            )
        return {name: self.layers / len(lost) for name in lost}

    def _left(self, name: str, layer: nn.Module, y: Tensor) -> Tensor:
        """The channels of a teacher's layer that the student has too."""
        rule = rule_of(layer)
        if not isinstance(self._kept, KeptChannels) or rule is None:
            return y
        count = rule.n_out(layer)
        keep = self._kept.outputs(name, count)
        if len(keep) == count:
            return y
        column = torch.tensor(rule.output_index(layer))
        index = torch.isin(column, keep).nonzero().flatten().to(y.device)
        return y.index_select(rule.axis(layer, y), index)

    def _opened(self, name: str, seen: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Both, channel by channel times the gates that a search has on the layer's outputs."""
        if not isinstance(self._kept, GateSet):
            return seen, wanted
        gates = self._kept.output_gates(name)
        if gates is None:
            return seen, wanted
        layer = dict(named_layers(self._kept.model))[name]
        rule = rule_of(layer)
        assert rule is not None  # only layers with a rule are gated
        shape = [1] * seen.dim()
        shape[rule.axis(layer, seen)] = -1
        factors = gates[torch.tensor(rule.output_index(layer))].view(shape).to(seen.dtype)
        return seen * factors, wanted * factors

    def _named(self, model: nn.Module) -> dict[str, nn.Module]:
        layers = dict(named_layers(model)) if self._compared else {}
        if missing := [name for name in self._compared if name not in layers]:
            raise InputError(
                f"{type(model).__name__} has no layer called {', '.join(missing)}. "
                "model.named_modules() lists them, 'masker' is one in Asteroid's separators."
            )
        return layers


class _Keep:
    """A forward hook that keeps the output of a layer; of several calls, the last."""

    def __init__(self, name: str, into: dict[str, Tensor]) -> None:
        self._name, self._into = name, into

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self._into[self._name] = output[0] if isinstance(output, tuple) else output


def announce(loss: Any, mixture: Tensor, model: nn.Module) -> None:
    """Tell a loss what the model is about to be called with, if it wants to know."""
    begin = getattr(loss, "begin", None)
    if begin is not None:
        begin(mixture, model)


@contextmanager
def dismissed(loss: Any) -> Iterator[None]:
    """See to it that a loss does not listen any more at the end, whatever failed before."""
    try:
        yield
    finally:
        if isinstance(loss, Distillation):
            loss.end()


def task_of(loss: Any) -> Loss:
    """The loss on the sources alone, which models are compared by; most losses are that already."""
    if isinstance(loss, Distillation):
        return loss.task
    found: Loss = loss
    return found


def _bounded(estimates: Tensor, wanted: Tensor) -> Tensor:
    """Mean negative SI-SDR in dB, no better than 30 dB."""
    with torch.autocast(estimates.device.type, enabled=False):
        one, other = _centred(estimates), _centred(wanted)
        energy = other.square().sum(-1, keepdim=True) + 1e-8
        part = (one * other).sum(-1, keepdim=True) / energy * other
        reference = part.square().sum(-1)
        error = (one - part).square().sum(-1)
        bounded = (error + _FLOOR * reference + 1e-8) / (reference + 1e-8)
        return 10 * bounded.log10().mean()


def _centred(signal: Tensor) -> Tensor:
    signal = signal if signal.dtype == torch.float64 else signal.float()
    return signal - signal.mean(-1, keepdim=True)


def _relative_error(seen: Tensor, wanted: Tensor, name: str) -> Tensor:
    """Energy of the error relative to that of the target, in dB, mean over the batch."""
    if seen.shape != wanted.shape:
        raise InputError(
            f"the layer '{name}' gives {tuple(seen.shape)} in the model and {tuple(wanted.shape)} "
            "in its teacher. If it was pruned, give kept=KeptChannels(model), made before; in a "
            "search, compare layers whose outputs are not gated."
        )
    with torch.autocast(seen.device.type, enabled=False):
        one, other = seen.flatten(1).float(), wanted.flatten(1).float()
        share = (one - other).square().sum(1) / (other.square().sum(1) + 1e-8)
        return 10 * (share + _FLOOR).log10().mean()
