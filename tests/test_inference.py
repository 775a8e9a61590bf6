"""``optimize_for_inference``: the same output, whatever is rewritten, and never something wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import PLAIN, SEPARATORS, randomised, shape_of
from torch import Tensor, nn

from sepprune_tp import (
    ChannelGraph,
    GateSet,
    SepPruneError,
    SepPruneImportance,
    SepPrunePruner,
    optimize_for_inference,
    save_pruned,
)
from sepprune_tp.inference import candidates as candidates_module
from sepprune_tp.inference.channels_last import ChainLast, channels_last
from sepprune_tp.inference.modules import (
    Affine,
    FrameNorm,
    GlobalNorm,
    LeakyReLU,
    Pointwise,
    ShiftedConv,
    TransposedFrameNorm,
)

ALL = {**SEPARATORS, **PLAIN}


def example(name: str, dtype: torch.dtype = torch.float32, time: int = 640) -> Tensor:
    if name not in SEPARATORS and name != "PlainConv" and name != "PlainAttention":
        pytest.skip("an image model")
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape_of(name, 1, time), generator=generator, dtype=dtype)


@pytest.mark.parametrize("name", [*SEPARATORS, "PlainConv", "PlainAttention"])
def test_a_rewritten_model_computes_the_same(name: str) -> None:
    model = randomised(ALL[name], 0, torch.float64)
    x = example(name, torch.float64)
    fast = optimize_for_inference(model, x, clock=None)
    for batch, time in ((1, 640), (2, 901)):
        generator = torch.Generator().manual_seed(2)
        other = torch.randn(shape_of(name, batch, time), generator=generator, dtype=x.dtype)
        with torch.no_grad():
            try:
                expected = model(other)
            except RuntimeError:  # a model for some lengths only
                continue
            assert (fast(other) - expected).abs().max() <= 1e-10 * expected.abs().max()
    report = fast.optimisation
    assert all(r.difference <= 1e-11 for r in report.kept)
    assert [r for r in report.rewrites if not r.kept and r.reason != "inside another"] == []


def test_the_model_itself_stays_as_it_is_unless_asked() -> None:
    model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32).train()
    before = copy.deepcopy(model.state_dict())
    x = example("ConvTasNet-gLN")
    fast = optimize_for_inference(model, x, clock=None)
    assert fast is not model and model.training and not fast.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in fast.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert optimize_for_inference(model, x, inplace=True, clock=None) is model


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ConvTasNet-gLN", {"group-norm kernel", "sum of shifted copies", "overlap-add"}),
        ("ConvTasNet-bN", {"factor and offset", "batch norm folded"}),
        ("ConvTasNet-causal-cgLN", {"cumulative norm in place"}),
        ("SuDORMRFNet", {"sum of shifted copies"}),
        ("DPRNNTasNet-LSTM-bi", {"time first"}),
        ("DPRNNTasNet-GRU-uni", {"time first"}),
    ],
)
def test_what_is_slow_in_asteroid_is_rewritten(name: str, changes: set[str]) -> None:
    model = randomised(SEPARATORS[name], 0, torch.float64)
    report = optimize_for_inference(model, example(name, torch.float64), clock=None).optimisation
    assert changes <= report.counts().keys()
    assert report.difference <= 1e-11
    assert str(report).endswith("of the largest value")


@pytest.mark.parametrize("name", ["ConvTasNet-gLN", "ConvTasNet-cLN", "SuDORMRFImprovedNet"])
def test_the_second_choice_is_as_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def last(module: nn.Module, stage: candidates_module.Stage) -> object:
        return candidates_module.candidates_of(module, stage)[::-1]

    monkeypatch.setattr("sepprune_tp.inference.optimise.candidates_of", last)
    model = randomised(SEPARATORS[name], 0, torch.float64)
    report = optimize_for_inference(model, example(name, torch.float64), clock=None).optimisation
    expected = "layer-norm kernel" if "cLN" in name else "block with channels last"
    assert expected in report.counts()
    assert report.difference <= 1e-11


def test_a_pruned_model_is_rewritten_like_a_dense_one() -> None:
    model = randomised(SEPARATORS["SuDORMRFImprovedNet"], 0, torch.float64)
    x = example("SuDORMRFImprovedNet", torch.float64)
    gates = GateSet(model, x)
    gates.load_masks({g.name: torch.arange(g.size) % 3 > 0 for g in gates.groups})
    SepPrunePruner(model, x, SepPruneImportance(gates)).step()
    fast = optimize_for_inference(model, x, clock=None)
    with torch.no_grad():
        expected = model(x)
        assert (fast(x) - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert fast.optimisation.counts()["group-norm kernel"] > 1


class Wrong(nn.Module):
    """Almost the same."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y * 1.001


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("cannot")


class Spoils(nn.Module):
    """Right, but it writes over its input, which somebody else reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(y) - y


def offers(build: Callable[[nn.Module], nn.Module], kind: type[nn.Module]) -> Callable[..., object]:
    real = candidates_module.candidates_of

    def candidates(module: nn.Module, stage: str) -> object:
        if isinstance(module, kind) and stage == "layer":
            return [("bad", build(module))]
        return real(module, stage)  # type: ignore[arg-type]

    return candidates


@pytest.mark.parametrize("bad", [Wrong, lambda _: Broken()])
def test_a_rewrite_that_differs_is_not_kept(
    bad: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sepprune_tp.inference.optimise.candidates_of", offers(bad, nn.Conv1d))
    model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)
    x = example("ConvTasNet-gLN")
    fast = optimize_for_inference(model, x, clock=None)
    undone = [r for r in fast.optimisation.rewrites if r.change == "bad"]
    assert undone and all(not r.kept and r.reason == "differs" for r in undone)
    with torch.no_grad():
        assert (fast(x) - model(x)).abs().max() <= 1e-5 * model(x).abs().max()
    assert "undone" in str(fast.optimisation)


def test_a_rewrite_that_spoils_the_model_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    spoils = offers(lambda _: Spoils(), nn.ReLU)
    monkeypatch.setattr("sepprune_tp.inference.optimise.candidates_of", spoils)
    model = Shares()
    x = torch.randn(1, 1, 32)
    fast = optimize_for_inference(model, x, clock=None)
    (rewrite,) = [r for r in fast.optimisation.rewrites if r.change == "bad"]
    assert not rewrite.kept and rewrite.reason == "the model differs"
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), atol=1e-6)


def test_a_slower_rewrite_is_not_kept() -> None:
    ticks = iter(range(10**9))
    began: list[float] = []

    def clock() -> float:
        """Each candidate (every second measurement) takes longer than its module."""
        began.append(next(ticks))
        turn, start = divmod(len(began) - 1, 2)
        return 10.0 * turn + (0.0 if start == 0 else 1.0 + turn % 2)

    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.PReLU()).eval()
    fast = optimize_for_inference(model, torch.randn(1, 1, 20), clock=clock)
    by_change = {r.change: r for r in fast.optimisation.rewrites}
    assert by_change["leaky-relu kernel"].reason == "slower"
    assert type(fast[1]) is nn.PReLU


RECORDED = [
    "ConvTasNet-gLN",
    "ConvTasNet-causal-cgLN",
    "SuDORMRFNet",
    "SuDORMRFImprovedNet",
    "DPRNNTasNet-LSTM-bi",
    "TDConvNetpp-fgLN",
    "DPTNet",
    "DCCRNet",
    "DCUNet-pad",
    "DeMask-cat-mag-cLN",
]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_model_computes_the_same_at_any_length(name: str) -> None:
    model = randomised(SEPARATORS[name], 0, torch.float64)
    x = example(name, torch.float64)
    fast = optimize_for_inference(model, x, record=True, clock=None)
    assert [r.name for r in fast.optimisation.kept if r.change == "recorded"] == ["masker"]
    assert len(fast.optimisation.shapes) == 4
    for batch, time in ((1, 640), (2, 901), (1, 333), (1, 2000)):
        generator = torch.Generator().manual_seed(2)
        other = torch.randn(shape_of(name, batch, time), generator=generator, dtype=x.dtype)
        with torch.no_grad():
            expected = model(other)
            assert (fast(other) - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert next(fast.parameters()).dtype == torch.float64


class Counts(nn.Module):
    """A size that Python takes from the input: its recording is for one length."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Identity() for _ in range(8)))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x) * float(len(x[0, 0])) * self.scale
        return y


def test_a_part_that_python_steers_is_not_recorded() -> None:
    model = nn.Sequential(Counts(), nn.Conv1d(1, 1, 1)).eval()
    x = torch.randn(1, 1, 40)
    fast = optimize_for_inference(model, x, record=True, clock=None)
    (rewrite,) = [r for r in fast.optimisation.rewrites if r.change == "recorded"]
    assert not rewrite.kept and rewrite.reason == "differs"
    other = torch.randn(1, 1, 23)
    with torch.no_grad():
        # within rounding: the rewritten convolution sums in another order on some processors
        torch.testing.assert_close(fast(other), model(other))


def test_a_recorded_model_is_not_saved(tmp_path: Path) -> None:
    model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)
    fast = optimize_for_inference(model, example("ConvTasNet-gLN"), record=True, clock=None)
    with pytest.raises(SepPruneError, match="Save the model that it was made from"):
        save_pruned(fast, tmp_path / "fast.safetensors")


def test_what_a_caller_hooked_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)
    norm = model.masker.bottleneck[0]
    norm.register_forward_hook(lambda *_: None)
    fast = optimize_for_inference(model, example("ConvTasNet-gLN"), clock=None)
    assert type(fast.masker.bottleneck[0]) is type(norm)


def test_a_rewritten_model_is_not_saved_by_halves(tmp_path: Path) -> None:
    model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)
    fast = optimize_for_inference(model, example("ConvTasNet-gLN"), clock=None)
    with pytest.raises(SepPruneError, match="Save the model that it was made from"):
        save_pruned(fast, tmp_path / "fast.safetensors")
    assert list(tmp_path.iterdir()) == []
    save_pruned(model, tmp_path / "model.safetensors")


def test_an_example_that_does_not_fit_is_refused() -> None:
    model = SEPARATORS["ConvTasNet-gLN"]()
    with pytest.raises(SepPruneError, match="cannot run on the example"):
        optimize_for_inference(model, torch.randn(1, 2, 3, 4))


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 4), (2, 1), (2, 3)])
@pytest.mark.parametrize("padding", [0, 2, 7])
def test_shifted_copies_are_the_convolution(
    kernel: int, stride: int, dilation: int, padding: int
) -> None:
    conv = nn.Conv1d(5, 5, kernel, stride, padding, dilation, groups=5).double()
    shifted = ShiftedConv(conv.weight, conv.bias, dilation, padding, stride)
    for time in (29, 30):
        x = torch.randn(2, 5, time, dtype=torch.float64)
        assert torch.allclose(shifted(x), conv(x), atol=1e-12)
    (last,) = channels_last([conv]) or []
    assert torch.allclose(ChainLast(last)(x), conv(x), atol=1e-12)


def test_modules_are_the_layers_that_they_replace() -> None:
    x = torch.randn(2, 6, 17, dtype=torch.float64)
    gain, bias = torch.randn(2, 6, dtype=torch.float64)
    normed = nn.functional.layer_norm(x.transpose(1, 2), (6,), gain, bias, 1e-5).transpose(1, 2)
    for kind in (FrameNorm, TransposedFrameNorm):
        assert torch.allclose(kind(gain, bias, 1e-5)(x), normed)
    for groups in (1, 6):
        expected = nn.functional.group_norm(x, groups, gain, bias, 1e-5)
        assert torch.allclose(GlobalNorm(gain, bias, 1e-5, groups)(x), expected)
    conv = nn.Conv1d(6, 3, 1).double()
    assert torch.allclose(Pointwise(conv.weight.flatten(1), conv.bias)(x), conv(x))
    prelu = nn.PReLU(init=-0.3).double()
    kept = x.clone()
    assert torch.equal(LeakyReLU(-0.3)(x), prelu(x)) or torch.allclose(LeakyReLU(-0.3)(x), prelu(x))
    assert torch.equal(x, kept)
    assert torch.allclose(Affine(gain, bias)(x), x * gain[:, None] + bias[:, None])


@pytest.mark.parametrize("name", [*SEPARATORS, "PlainConv", "PlainAttention"])
def test_nothing_is_left_in_a_pruned_model(name: str) -> None:
    """Contiguous weights, no masks, no hooks, no patched forwards: only the layers, smaller."""
    dense = ALL[name]()
    hooks_before = _extras(dense)
    x = example(name)
    gates = GateSet(dense, x, scope="all")
    gates.load_masks({g.name: torch.arange(g.size) % 2 == 0 for g in gates.groups})
    with gates, torch.no_grad():
        dense.eval()(x)
    SepPrunePruner(dense, x, SepPruneImportance(gates)).step()
    fresh = ALL[name]()
    assert sum(p.numel() for p in dense.parameters()) < sum(p.numel() for p in fresh.parameters())
    for tensor in (*dense.parameters(), *dense.buffers()):
        assert type(tensor) in (Tensor, nn.Parameter)
    strided = {name for name, tensor in _tensors(fresh) if not tensor.is_contiguous()}
    assert {name for name, tensor in _tensors(dense) if not tensor.is_contiguous()} <= strided
    for parameter in dense.parameters():
        assert type(parameter) is nn.Parameter and parameter.is_leaf
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()
    assert _extras(dense) == hooks_before
    new = {n for n, _ in dense.named_buffers()} - {n for n, _ in fresh.named_buffers()}
    assert not any("mask" in buffer or "gate" in buffer for buffer in new)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _extras(model: nn.Module) -> list[tuple[str, int, bool, bool]]:
    """Hooks, patched forwards and parametrisations of every module that has some."""
    found = []
    for name, m in model.named_modules():
        hooks = len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        row = (name, hooks, "forward" in vars(m), hasattr(m, "parametrizations"))
        if any(row[1:]):
            found.append(row)
    return found


def test_gates_do_not_reach_into_a_rewritten_model() -> None:
    model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)
    x = example("ConvTasNet-gLN")
    fast = optimize_for_inference(model, x, clock=None)
    graph = ChannelGraph("all").build_dependency(fast, x)
    assert graph.prunable_sets() == []  # every layer that makes channels is one that only runs
