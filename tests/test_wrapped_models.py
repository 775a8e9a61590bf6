"""Models as people have them: wrapped, compiled, in half precision, half frozen, in training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from laws import far, keep_by, mixture, pruned_copy
from small_nets import graph_of, sizes
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from sepprune_tp import (
    ChannelGraph,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    _unwrap,
    load_pruned,
    profile,
    save_pruned,
)
from sepprune_tp._unwrap import unwrapped
from sepprune_tp.errors import GraphError, InputError

TIME = 64


class Small(nn.Module):
    """A residual stream, a norm with running statistics, dropout and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.make = nn.Conv1d(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm1d(8)
            self.more = nn.Conv1d(8, 8, 3, padding=1)
            self.drop = nn.Dropout(0.5)
            self.rnn = nn.LSTM(8, 6, batch_first=True)
            self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) -> (B, 1, T)."""
        y = self.norm(self.make(x.unsqueeze(1)))
        y = self.drop(y + torch.relu(self.more(y)))
        return self.head(self.rnn(y.transpose(1, 2))[0]).transpose(1, 2)


def small(dtype: torch.dtype = torch.float32) -> nn.Module:
    return Small().to(dtype).eval()


def closed(model: nn.Module, example: Tensor) -> GateSet:
    """Gates with half of the channels of each group closed."""
    gates = GateSet(model, example, scope="all")
    gates.load_masks(keep_by(gates, "half"))
    return gates


def gated_output(gates: GateSet, model: nn.Module, x: Tensor) -> Tensor:
    with gates, torch.no_grad():
        y: Tensor = model(x)
    return y


def output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(x)
    return y


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One process that counts as a group of one."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    file = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": DataParallel,
    "DistributedDataParallel": DistributedDataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "compile in DataParallel": lambda model: DataParallel(torch.compile(model, backend="eager")),
}


@pytest.fixture(params=list(WRAPPERS))
def wrap(request: pytest.FixtureRequest) -> Callable[[nn.Module], nn.Module]:
    if request.param == "DistributedDataParallel":
        request.getfixturevalue("process_group")
    return WRAPPERS[request.param]


# -- wrappers ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the module inside DistributedDataParallel")
def test_a_wrapped_model_is_the_module_inside(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    plain, x = small(), mixture(1, TIME)
    wrapped = wrap(copy.deepcopy(plain))
    dense = output(wrapped, x)  # a compiled model is compiled before anything else happens
    assert torch.equal(dense, output(plain, x))
    bare, boxed = closed(plain, x), closed(wrapped, x)
    assert boxed.model is unwrapped(wrapped)
    assert boxed.groups == bare.groups  # names of the module inside
    assert sizes(ChannelGraph("all").build_dependency(wrapped, x)) == sizes(bare.graph)
    assert profile(wrapped, x).macs == profile(plain, x).macs
    assert [r.name for r in profile(wrapped, x).rows] == [r.name for r in profile(plain, x).rows]

    gated = gated_output(bare, plain, x)
    assert far(gated, dense) > 1e-3
    assert torch.equal(gated_output(boxed, wrapped, x), gated)  # through the wrapper too
    assert torch.equal(output(wrapped, x), dense)

    SepPrunePruner(wrapped, x, SepPruneImportance(boxed)).step()
    pruned = output(wrapped, x)
    assert far(pruned, gated) < 1e-5  # a compiled model has compiled anew
    assert torch.equal(pruned, output(unwrapped(wrapped), x))

    path = save_pruned(wrapped, tmp_path / "pruned.safetensors")
    assert torch.equal(output(load_pruned(path, model=small()), x), pruned)
    assert torch.equal(output(load_pruned(path, model=wrap(small())), x), pruned)


def test_torch_prunings_pruner_on_a_wrapped_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    wrapped, x = wrap(small()), mixture(1, TIME)
    gates = closed(wrapped, x)
    before = sum(p.numel() for p in wrapped.parameters())
    if isinstance(wrapped, DistributedDataParallel):
        with pytest.warns(UserWarning, match=r"new DistributedDataParallel"):
            pruner = tp.pruner.MetaPruner(wrapped, x, SepPruneImportance(gates), pruning_ratio=0.5)
    else:
        pruner = tp.pruner.MetaPruner(wrapped, x, SepPruneImportance(gates), pruning_ratio=0.5)
    pruner.step()
    assert sum(p.numel() for p in wrapped.parameters()) < before
    assert output(wrapped, x).shape == (1, 1, TIME)


def test_a_pruned_model_can_be_wrapped_again_and_trained(process_group: None) -> None:
    model, x = small(), mixture(2, TIME)
    with pytest.warns(UserWarning, match="new DistributedDataParallel"):
        SepPrunePruner(
            DistributedDataParallel(model), x, tp.importance.MagnitudeImportance(), 0.5, scope="all"
        ).step()
    wrapped = DistributedDataParallel(model.train())
    wrapped(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_compiled_in_place_and_compiled_parts() -> None:
    """``module.compile()`` of the whole or a part: gates still reach every layer."""
    plain, x = small(), mixture(1, TIME)
    model = copy.deepcopy(plain)
    model.compile(backend="eager")
    if not _unwrap._CAN_RUN_EAGERLY:
        pytest.skip("torch before 2.6 cannot run compiled parts as Python; they are refused")
    model.rnn.compile(backend="eager")  # type: ignore[operator, union-attr]
    dense = output(model, x)
    assert far(dense, output(plain, x)) < 1e-6
    gates = closed(model, x)
    gated = gated_output(gates, model, x)
    assert far(gated, dense) > 1e-3
    assert torch.equal(gated, gated_output(closed(plain, x), plain, x))
    assert torch.equal(output(model, x), dense)
    SepPrunePruner(model, x, SepPruneImportance(gates)).step()
    assert far(output(model, x), gated) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("nested", [False, True])
def test_torchscript_is_refused(nested: bool, tmp_path: Path) -> None:
    x = mixture(1, TIME)
    traced = torch.jit.trace(small(), x)
    model = nn.Sequential(traced) if nested else traced
    actions: list[Callable[[], Any]] = [
        lambda: ChannelGraph("all").build_dependency(model, x),
        lambda: GateSet(model, x, scope="all"),
        lambda: profile(model, x),
        lambda: save_pruned(model, tmp_path / "x.safetensors"),
        lambda: SepPrunePruner(model, x, tp.importance.MagnitudeImportance(), 0.5),
    ]
    for action in actions:
        with pytest.raises(InputError, match=r"TorchScript.*Give the Python model"):
            action()
    with pytest.raises(InputError, match=r"a dict; give a torch\.nn\.Module"):
        unwrapped({})  # type: ignore[arg-type]


def test_compiled_parts_are_refused_where_torch_cannot_run_them_as_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_unwrap, "_CAN_RUN_EAGERLY", False)
    model = small()
    model.rnn.compile(backend="eager")  # type: ignore[operator, union-attr]
    with pytest.raises(InputError, match=r"'rnn' is compiled .* use torch 2\.6"):
        ChannelGraph("all").build_dependency(model, mixture(1, TIME))


# -- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)],
)
def test_precisions(dtype: torch.dtype, tolerance: float) -> None:
    model, x = small(dtype), mixture(1, TIME, dtype=dtype)
    gates = closed(model, x)
    assert [(g.name, g.size) for g in gates.groups] == [
        (g.name, g.size) for g in closed(small(), mixture(1, TIME)).groups
    ]
    dense, gated = output(model, x), gated_output(gates, model, x)
    pruned = pruned_copy(gates, x)
    assert gated.dtype == dtype and all(p.dtype == dtype for p in pruned.parameters())
    assert far(output(pruned, x).double(), gated.double()) < tolerance
    assert far(gated.double(), dense.double()) > 10 * tolerance
    assert torch.equal(output(model, x), dense)


def test_mixed_precision() -> None:
    """Half of the layers in bfloat16, with casts between."""

    class Mixed(Small):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.make(x.unsqueeze(1)))
            y = y + torch.relu(self.more(y.bfloat16())).float()
            return self.head(self.rnn(y.transpose(1, 2))[0]).transpose(1, 2)

    model, x = Mixed().eval(), mixture(1, TIME)
    model.more.bfloat16()
    gates = closed(model, x)
    assert sizes(gates.graph) == sizes(closed(small(), x).graph)
    gated, pruned = gated_output(gates, model, x), pruned_copy(gates, x)
    assert far(output(pruned, x), gated) < 2e-2 < far(gated, output(model, x))
    assert pruned.more.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


# -- the life of a model -------------------------------------------------------------------------


def test_pruning_twice() -> None:
    model, x = small(), mixture(1, TIME)
    seen = [sum(p.numel() for p in model.parameters())]
    for _ in range(2):
        gates = closed(model, x)
        gated = gated_output(gates, model, x)
        SepPrunePruner(model, x, SepPruneImportance(gates)).step()
        assert far(output(model, x), gated) < 1e-5
        seen.append(sum(p.numel() for p in model.parameters()))
    assert seen == sorted(seen, reverse=True) and len(set(seen)) == 3
    assert gates.groups[0].size == 4  # half of 8, before half of that went


def test_pruning_between_steps_of_training() -> None:
    """Train, prune with gradients at hand, train on with a new optimiser, and prune again."""
    model, x = small().train(), mixture(2, TIME)
    for _ in range(2):
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(2):
            optimiser.zero_grad()
            model(x).square().mean().backward()
            optimiser.step()
        widths = {n: p.grad.shape for n, p in model.named_parameters() if p.grad is not None}
        assert len(widths) == len(list(model.parameters()))
        gates = closed(model, x)
        SepPrunePruner(model, x, SepPruneImportance(gates)).step()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.shape == parameter.shape, name
        assert model.training
    assert model.make.out_channels == 2  # type: ignore[union-attr]


def test_an_optimiser_of_the_dense_model_is_told_apart() -> None:
    """The parameters are new after pruning: an optimiser made before holds the old ones."""
    model, x = small(), mixture(1, TIME)
    optimiser = torch.optim.SGD(model.parameters(), 1.0)
    SepPrunePruner(model, x, tp.importance.MagnitudeImportance(), 0.5, scope="all").step()
    model(x).square().mean().backward()
    before = copy.deepcopy(model.state_dict())
    optimiser.step()
    known = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert any(id(p) not in known for p in model.parameters())
    assert torch.equal(model.make.weight, before["make.weight"])  # type: ignore[union-attr]


def test_frozen_parts_stay_frozen() -> None:
    model, x = small(), mixture(1, TIME)
    frozen = {"make.weight", "make.bias", "rnn.weight_ih_l0"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    gates = closed(model, x)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen
    pruned = pruned_copy(gates, x)
    assert pruned.make.out_channels == 4  # type: ignore[union-attr]
    assert {n for n, p in pruned.named_parameters() if not p.requires_grad} == frozen


def test_the_graph_leaves_a_model_in_training_alone() -> None:
    """Modes, running statistics and random numbers are as if nobody had looked."""

    class Noisy(Small):
        def forward(self, x: Tensor) -> Tensor:
            noise = torch.randn_like(x)  # drawn in eval mode too
            return super().forward(x + 0 * noise)

    model, x = Noisy().train(), mixture(1, TIME)
    model.drop.eval()  # modes differ inside
    modes = {n: m.training for n, m in model.named_modules()}
    state = {n: t.clone() for n, t in model.state_dict().items()}
    rng = torch.get_rng_state()
    GateSet(model, x, scope="all").graph.explain("make")
    assert {n: m.training for n, m in model.named_modules()} == modes
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    graph = ChannelGraph("all").build_dependency(model, x)
    assert sizes(graph) == sizes(graph_of(small(), 1, TIME))
    torch.set_rng_state(rng)
    ChannelGraph("all").build_dependency(model, x)
    assert torch.equal(torch.get_rng_state(), rng)
    model(x)  # the negative control: a plain call in training mode changes both
    assert not torch.equal(torch.get_rng_state(), rng)
    assert not torch.equal(model.norm.running_mean, state["norm.running_mean"])


def test_a_copy_made_with_the_gates_on_is_dense() -> None:
    """It has no gates, and shares nothing with the model that it was copied from."""
    model, x = small(), mixture(1, TIME)
    dense = output(model, x)
    gates = closed(model, x)
    with gates, torch.no_grad():
        gated, twin = model(x), copy.deepcopy(model)
        assert torch.equal(twin(x), dense) and not torch.equal(gated, dense)
    assert torch.equal(output(twin, x), dense)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(output(twin, x), dense) and not torch.equal(output(model, x), dense)
    assert far(gated_output(closed(twin, x), twin, x), gated) == 0


# -- devices -------------------------------------------------------------------------------------


def test_a_model_on_the_meta_device() -> None:
    """Shapes are enough for the graph and for cutting; there are no values to gate."""
    model, x = small().to("meta"), mixture(1, TIME).to("meta")
    graph = ChannelGraph("all").build_dependency(model, x)
    assert sizes(graph) == sizes(graph_of(small(), 1, TIME))
    assert (
        graph.explain("make").parts[-1].slices
        == graph_of(small(), 1, TIME).explain("make").parts[-1].slices
    )
    for _, group in list(graph.named_groups()):
        group.prune(group[0].idxs[::2])
    assert model(x).shape == (1, 1, TIME) and model.make.weight.shape == (4, 1, 3)  # type: ignore[union-attr]


def test_a_model_and_an_example_on_different_devices() -> None:
    with pytest.raises(GraphError, match="on the model's device"):
        ChannelGraph("all").build_dependency(small().to("meta"), mixture(1, TIME))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    model, x = small(torch.float64).cuda(), mixture(1, TIME, dtype=torch.float64).cuda()
    state = torch.cuda.get_rng_state()
    gates = closed(model, x)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert sizes(gates.graph) == sizes(graph_of(small(), 1, TIME))
    gated, pruned = gated_output(gates, model, x), pruned_copy(gates, x)
    assert far(output(pruned, x), gated) < 1e-10 < far(gated, output(model, x))
    assert all(p.is_cuda for p in pruned.parameters())
