"""The proof: a model that is gated and a copy that is cut give the same, or a group is not offered.

The trace follows what a model does with its tensors, not the numbers in its code: ``x.view(b, 64,
-1)`` runs while there are 64 channels and fails with 63, and ``x * x.size(1) ** -0.5`` runs and
gives something else. So before groups are handed out, two models in double precision are compared
by value: one gated, one cut, with random masks of every group at once.
"""

from __future__ import annotations

import copy
import random
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ..architectures import sync_attributes
from ..layers.bare import BareTensor
from ..layers.composite import named_layers, run_by_parts
from .assembly import ChannelSet, Owner, Site
from .gating import Places, gated_layers, gated_places, patch, patch_code, unpatch, unpatch_code
from .outputs import tensors_of
from .whereabouts import FOREIGN

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["Bench", "Failure", "Proof", "Width"]

_EXACT = {torch.float64: 1e-9, torch.float32: 2e-4}
"""Largest difference, relative to the largest value of an output, by precision."""
_RUNS, _SECONDS = 3000, 40
"""How often a model runs, and how long, for a proof at most."""
_LARGE = 1 << 31
"""Bytes of parameters in double precision from which a model is compared as it is."""


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        refused: For each set that cannot be cut exactly, by position: the reason.
        skipped: Why nothing was compared, or None.
        error: Largest difference between gated and cut, relative to the largest output.
        compared: On how many masks and inputs.
    """

    refused: dict[int, str] = field(default_factory=dict)
    skipped: str | None = None
    error: float = 0.0
    compared: int = 0


@dataclass(frozen=True)
class Failure:
    """Why a copy without some channels does not do.

    Attributes:
        what: In words.
        raised: Whether the copy failed to run.
        modules: Names of the modules that were running, innermost first.
        trial: Number of the trial that failed.
        where: File and line of the model's code that raised; empty if it is not known.
    """

    what: str
    raised: bool
    modules: tuple[str, ...] = ()
    trial: int = 0
    where: str = ""


@dataclass(frozen=True)
class Width:
    """A number in a module that holds a count of channels, and follows it.

    Attributes:
        module: Dotted name of the module.
        attribute: Name of the attribute.
        item: Which number of a tuple or list; None for a number.
        value: In the dense model.
        count: How many channels there were then.
        owner: Name of a layer whose channels it follows.
        side: Which side of that layer.
        grouped: Whether whole components (such as heads) are counted, not channels.
    """

    module: str
    attribute: str
    item: int | None
    value: int
    count: int
    owner: str
    side: str
    grouped: bool = False

    def apply(self, module: nn.Module, present: int) -> bool:
        """Set the number for a present count; whether it is whole."""
        scaled, rest = divmod(self.value * present, self.count)
        if rest:
            return False
        held = getattr(module, self.attribute)
        if self.item is None:
            made: Any = scaled
        else:
            items = list(held)
            items[self.item] = scaled
            made = items if isinstance(held, list) else type(held)(items)
        module.__dict__[self.attribute] = made
        return True


class _Precise(TorchFunctionMode):
    """Keeps a run in double precision, and ends it where a fast kernel would read out of bounds."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            _check_attention(*args[:3], **{k: v for k, v in kwargs.items() if k in _ROLES})
        if self._dtype is torch.float64:
            if func in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
                return args[0].double()
            args = tuple(_double(a) for a in args)
            kwargs = {k: _double(v) for k, v in kwargs.items()}
        return func(*args, **kwargs)


_ROLES = ("query", "key", "value")


def _check_attention(query: Tensor, key: Tensor, value: Tensor) -> None:
    if key.shape[-2] != value.shape[-2] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"attention gets keys {tuple(key.shape)} and values {tuple(value.shape)} for queries "
            f"{tuple(query.shape)}"
        )


def _double(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _LOW else value


_LOW: tuple[Any, ...] = (torch.float32, torch.float16, torch.bfloat16)


class Bench:
    """A copy of one model, gated and cut in turns.

    Attributes:
        runs: How often a model ran.
        error: The largest difference seen among copies that passed.
        skipped: Why nothing can be compared, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Callable[[nn.Module, Any], Any],
        inputs: Any,
        names: Mapping[Any, str],
    ) -> None:
        self._model, self._call, self._names = model, call, names
        self.runs, self.error, self._began = 0, 0.0, time.monotonic()
        self.skipped: str | None = None
        self.widths: list[Width] = []
        self._cut_names: dict[int, str] = {}
        self._inputs = inputs
        size = sum(p.numel() for p in model.parameters()) * 8
        self.dtype = torch.float64 if size <= _LARGE else torch.float32
        self._variants: list[Any] = []
        self._variants_known = False
        self._prepare(inputs)

    def _prepare(self, inputs: Any) -> None:
        try:
            self._base = self._copied()
        except Exception as error:  # torch refuses to copy a tensor with a history
            self.skipped = f"a copy of the model does not run: {_first_line(error)}"
            return
        self._layers = dict(named_layers(self._base))
        self._inputs = tree_map(self._converted, inputs)
        self._variants = self._other_inputs()

    trials = 2
    """Number of masks: of the example, and of one with another batch size and length."""

    @property
    def spent(self) -> bool:
        """Whether the proof has taken as long as it may; what is not proved then is protected."""
        return self.runs > _RUNS or time.monotonic() - self._began > _SECONDS

    def runs_alike(self) -> bool:
        """Whether the plain copy runs, and gives the same twice; in single precision if it must."""
        for dtype in dict.fromkeys((self.dtype, torch.float32)):
            if dtype is not self.dtype:
                self.dtype = dtype
                self._prepare(self._inputs)
            try:
                with self._quietly():
                    one, two = (self._run(self._base, self._inputs) for _ in range(2))
            except Exception as error:  # a model may raise anything
                self.skipped = f"a copy of the model does not run: {_first_line(error)}"
                continue
            self.skipped = None
            off = _difference(one, two)
            if off is None or not off <= _EXACT[self.dtype]:
                self.skipped = "the model gives other outputs each time that it runs"
            return self.skipped is None
        return False

    # -- the copy ---------------------------------------------------------------------------------

    def _converted(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_complex():
            return value.detach().to(
                torch.complex128 if self.dtype is torch.float64 else torch.complex64
            )
        if value.is_floating_point():
            return value.detach().to(self.dtype).clone()
        return value.detach().clone()

    def _copied(self) -> nn.Module:
        memo: dict[int, Any] = {}
        generator = torch.Generator().manual_seed(0)
        for _name, parameter in self._model.named_parameters():
            made = _varied(self._converted(parameter).nan_to_num(0.1, 0.1, -0.1), generator)
            memo[id(parameter)] = nn.Parameter(made, requires_grad=False)
        for name, buffer in self._model.named_buffers():
            made = self._converted(buffer)
            if name.rpartition(".")[2] in ("running_mean", "running_var"):
                made = _varied(made, generator)
            memo[id(buffer)] = made
        for module in self._model.modules():
            for value in module.__dict__.values():
                for item in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(item, Tensor) and id(item) not in memo:
                        memo[id(item)] = self._converted(item)
        model = copy.deepcopy(self._model, memo).eval()
        for module in model.modules():  # torch copies what a compiled RNN calls: the original
            module.__dict__.pop("_compiled_call_impl", None)
        return model

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        default = torch.get_default_dtype()
        try:
            if self.dtype is torch.float64:
                torch.set_default_dtype(torch.float64)
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
                warnings.simplefilter("ignore")
                yield
        finally:
            torch.set_default_dtype(default)

    def _run(self, model: nn.Module, inputs: Any) -> list[Tensor]:
        self.runs += 1
        torch.manual_seed(0)
        given = tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs)
        with _Precise(self.dtype):
            return tensors_of(self._call(model, given))

    def _other_inputs(self) -> list[Any]:
        """The example with another batch size, and another length; the model may not take them."""
        tensors = [v for v in tree_leaves(self._inputs) if isinstance(v, Tensor) and v.dim()]
        if not tensors or len({len(t) for t in tensors}) > 1 or any(t.dim() < 2 for t in tensors):
            return [self._inputs]
        more = tree_map(_repeated, self._inputs)
        shorter = [tree_map(partial(_shorter, axis=axis), more) for axis in (-1, 1)]
        return [*shorter, more, self._inputs]

    # -- gated and cut ----------------------------------------------------------------------------

    def _owner(self, site: Site, layers: Mapping[str, nn.Module], memo: Any) -> Owner:
        """The same owner in a copy."""
        owner = site.owner
        if isinstance(owner, BareTensor):
            return owner.of(layers[self._names[owner.host]])
        if isinstance(owner, nn.Parameter):
            found: nn.Parameter = memo(self._names[owner])
            return found
        return layers[self._names[owner]]

    def _gated(
        self, graph: ChannelGraph, sets: Sequence[ChannelSet], keep: Any
    ) -> Callable[..., Any]:
        order = [c for channel_set in sets for c in channel_set.components]
        gate_of = {component: number for number, component in enumerate(order)}
        values = torch.tensor([*(float(keep[c]) for c in order), 1.0], dtype=self.dtype)
        layers = gated_layers(sets, gate_of, graph)
        for layer in layers:
            layer.module = self._layers[self._names[layer.module]]
        places: Places = {
            (self._layers[self._names[module]], key): place
            for (module, key), place in gated_places(graph.places, graph.roots, gate_of).items()
        }

        def run(inputs: Any) -> list[Tensor]:
            code: list[nn.Module] = []
            with run_by_parts(self._base.modules()):
                try:
                    for layer in layers:
                        patch(layer, lambda: values, values.device, lambda *_: None)
                    code = patch_code(places, lambda: values)
                    return self._run(self._base, inputs)
                finally:
                    for layer in layers:
                        unpatch(layer)
                    unpatch_code(code)

        return run

    def _cut(
        self, graph: ChannelGraph, sets: Sequence[ChannelSet], keep: Any, widths: Sequence[Width]
    ) -> nn.Module:
        memo: dict[int, Any] = {id(p): p for p in self._base.parameters()}
        model = copy.deepcopy(self._base, memo)
        layers = dict(named_layers(model))
        self._cut_names = {id(layer): name for name, layer in layers.items()}
        parameters = dict(model.named_parameters())
        for site, removed in _removed(sets, keep):
            owner = self._owner(site, layers, parameters.__getitem__)
            made = graph.cut_copy(site, owner, removed)
            if isinstance(owner, nn.Parameter):
                _replace(model, owner, made)
        sync_attributes(model)
        for width in widths:
            present = self._present(graph, width, sets, keep)
            if present is not None and not width.apply(layers[width.module], present):
                raise ValueError(
                    f"{width.attribute} of '{width.module}' would not be a whole number"
                )
        return model

    def _present(
        self, graph: ChannelGraph, width: Width, sets: Sequence[ChannelSet], keep: Any
    ) -> int | None:
        """How many channels a width counts, of those that it counted in the dense model."""
        going = {c for channel_set in sets for c in channel_set.components if not keep[c]}
        site = graph.site_named(width.owner, width.side)
        if site is None:
            return None
        return site.count(going, width.grouped)

    # -- comparing --------------------------------------------------------------------------------

    def fails(
        self,
        graph: ChannelGraph,
        sets: Sequence[tuple[int, ChannelSet]],
        first: int = 0,
        widths: Sequence[Width] = (),
    ) -> Failure | None:
        """Why a copy without some channels of each set does not do, or None.

        Args:
            graph: The graph that the sets are of.
            sets: With their positions.
            first: The trial to begin with.
            widths: Attributes that follow channels, besides those that are known.
        """
        if not sets:
            return None
        chosen = [channel_set for _, channel_set in sets]
        worst = 0.0
        small = min(channel_set.size for channel_set in chosen) <= _SMALL
        doubtful = any(graph.suspicion(s) for s in chosen)
        more = range(2, _TURNS) if doubtful else range(2, 2 + 2 * small)
        for turn in (first, *(t for t in (0, 1, *more) if t != first)):
            keep = _masks(sets, turn)
            inputs = self._variants[0] if turn == 1 else self._inputs
            for again in (False, True):  # another input where the model does not take the first
                try:
                    with self._quietly():
                        cut = self._cut(graph, chosen, keep, [*self.widths, *widths])
                        got = self._run(cut, inputs)
                except Exception as error:  # a model may raise anything
                    if again or not self._refuses(turn):
                        running = self._running(error)
                        return Failure(_first_line(error), True, running, turn, _line_of(error))
                    inputs = self._variants[0]
                else:
                    break
            try:
                with self._quietly():
                    wanted = self._gated(graph, chosen, keep)(inputs)
            except Exception as error:
                return Failure(f"with gates: {_first_line(error)}", True, (), turn)
            off = _difference(got, wanted)
            if off is None:
                return Failure("its outputs have other shapes", False, (), turn)
            if not off <= _EXACT[self.dtype]:
                said = f"gated and cut differ by {off:.1e} of the largest output"
                return Failure(said, False, (), turn)
            worst = max(worst, off)
        self.error = max(self.error, worst)
        return None

    def _refuses(self, turn: int) -> bool:
        """Whether the plain copy does not take the input of a turn; then the next is its input."""
        if turn != 1 or self._variants_known:
            return False
        self._variants_known = True
        before = len(self._variants)
        while len(self._variants) > 1:
            try:
                with self._quietly():
                    self._run(self._base, self._variants[0])
                break
            except Exception:
                self._variants.pop(0)
        return len(self._variants) < before

    def first_difference(self, graph: ChannelGraph, sets: Sequence[tuple[int, ChannelSet]]) -> str:
        """Where gated and cut copies begin to differ: the first module that does; or nothing."""
        keep = _masks(sets, 0)
        chosen = [channel_set for _, channel_set in sets]
        try:
            with self._quietly():
                cut = self._cut(graph, chosen, keep, self.widths)
                made = _outputs_of(cut, lambda: self._run(cut, self._inputs))
                gated = self._gated(graph, chosen, keep)
                wanted = _outputs_of(self._base, lambda: gated(self._inputs))
        except Exception:  # it failed before; that is what is told then
            return ""
        for name, output in made.items():
            other = wanted.get(name)
            layer = self._layers[name]
            site = graph.site_named(name, "out")
            if other is not None and site is not None and output.dim() == other.dim():
                left = [i for i, c in enumerate(site.components.tolist()) if keep.get(c, True)]
                for dim in range(other.dim()):
                    if other.size(dim) == site.components.numel() and output.size(dim) == len(left):
                        other = other.index_select(dim, torch.tensor(left))
                        break
            if other is None or other.shape != output.shape:
                continue
            off = _difference([output], [other])
            if off is not None and not off <= _EXACT[self.dtype]:
                return f"first behind '{name or 'the model'}'{_source_of(layer)}"
        return ""

    def _running(self, error: Exception) -> tuple[str, ...]:
        """Names of the modules of the cut copy whose code raised, innermost first."""
        found: list[str] = []
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            name = self._cut_names.get(id(frame.f_locals.get("self")))
            if name is not None and name not in found:
                found.append(name)
        return tuple(found)


def _outputs_of(model: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """The first output of each module that returns a tensor, in the order in which they end."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():

        def hook(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            if isinstance(output, Tensor):
                found.setdefault(name, output.detach().clone())

        hooks.append(module.register_forward_hook(hook))
    try:
        run()
    finally:
        for handle in hooks:
            handle.remove()
    return found


def _source_of(module: nn.Module) -> str:
    """File and line of the forward of a module that is not torch's."""
    code = getattr(getattr(type(module), "forward", None), "__code__", None)
    if code is None or code.co_filename.startswith(FOREIGN):
        return ""
    return f" ({Path(code.co_filename).name}:{code.co_firstlineno})"


def _line_of(error: Exception) -> str:
    """File and line of the model's own code that raised."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = frame.f_code.co_filename
        if not path.startswith((*FOREIGN, "<")):
            return f"{Path(path).name}:{line}"
    return ""


def _replace(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[name] = new


def _masks(sets: Sequence[tuple[int, ChannelSet]], turn: int) -> dict[int, bool]:
    """Masks of every set in one turn.

    Turns come in pairs: the second closes what the first keeps, so that every channel is closed,
    and one more of a large set where the widths would be of one parity. Sets of one size keep
    different numbers of channels, in the first pair of turns or, where there are many, in a later
    one.
    """
    keep: dict[int, bool] = {}
    seen: Counter[int] = Counter()
    for _, channel_set in sets:
        size = channel_set.size
        place = seen[size]
        seen[size] += 1
        draw = random.Random(f"{size} {place} {turn // 2}")
        order = draw.sample(range(size), size)
        width = _width(size, place, turn // 2)
        if size == 2 and turn > 1:  # both or one: the only way to tell two such sets apart
            both = (place >> (turn // 2 - 1)) % 2 == turn % 2
            chosen = set(order if both else order[:1])
        elif turn % 2 == 0:
            chosen = set(order[:width])
        else:
            spare = int(size % 2 == 0 and size > _SMALL)
            chosen = set(order[width + spare :])
        mask = {c: i in chosen for i, c in enumerate(channel_set.components)}
        for site in channel_set.sites:  # none without a channel
            used = site.members()
            if used.keys() <= mask.keys() and not any(mask[c] for c in used):
                mask[next(iter(used))] = True
        keep.update(mask)
    return keep


_TURNS = 6
_SMALL = 8  # sets whose widths easily agree by chance


def _width(size: int, place: int, pair: int) -> int:
    """How many channels a set keeps, by its place among those of its size."""
    if size <= _SMALL:
        # first what does not divide the size: heads of a fixed width would still fit in number
        options = sorted(range(1, size), key=lambda n: (size % n == 0, abs(2 * n - size), n)) or [1]
        for _ in range(pair):
            place = place // len(options) + 1
        return options[place % len(options)]
    low = size // 4
    span = 3 * size // 4 - low + 1
    width = low + (span // 2 + place * (span * 5 // 8 | 1) + pair * (span // 3)) % span
    return width + (size % width == 0)


def _removed(
    sets: Sequence[tuple[int, ChannelSet] | ChannelSet], keep: Mapping[int, bool]
) -> list[tuple[Site, list[int]]]:
    """For each side of each layer, the channels that go."""
    sites = {id(s): s for c in sets for s in c.sites}  # type: ignore[union-attr]
    found = []
    for site in sites.values():
        gone = [i for i, c in enumerate(site.components.tolist()) if not keep.get(c, True)]
        if gone:
            found.append((site, gone))
    return found


def _difference(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float | None:
    """Largest difference relative to the largest value; None where shapes differ."""
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return None
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        if not one.numel():
            continue
        if not (one.is_floating_point() or one.is_complex()):
            if not torch.equal(one, other):
                worst = max(worst, 1.0)
            continue
        gap = (one - other).abs()
        gap = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, gap)
        scale = float(torch.where(other.isfinite(), other.abs(), 0.0).max())
        off = float(gap.max()) / (scale or 1.0)
        worst = off if off != off else max(worst, off)
        if worst != worst:
            return float("inf")
    return worst


def _varied(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor, or random values in the place of one that is constant (zeros hide a mistake)."""
    if (
        not tensor.is_floating_point()
        or tensor.numel() < 2
        or bool((tensor != tensor.flatten()[0]).any())
    ):
        return tensor
    drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 0.5 + 0.25
    return drawn.to(tensor)


def _repeated(value: Any) -> Any:
    """Another batch size: three times the example, or twice a large one."""
    if not isinstance(value, Tensor) or not value.dim():
        return value
    other = value.flip(-1) if value.is_floating_point() else value
    return torch.cat([value, other, value] if value.numel() < _FEW else [value, other])


_FEW = 10_000  # numbers in an example that is small


def _shorter(value: Any, axis: int) -> Any:
    """Another length along an axis, an odd one."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return value
    length = value.shape[axis] - value.shape[axis] // 4
    length = max(1, length - (length % 2 == 0))
    return value.narrow(axis, 0, length).contiguous()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0]}" if lines else type(error).__name__
