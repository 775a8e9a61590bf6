"""A pruned model knows where its channels come from, and the dense model can be had again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

pytest.importorskip("safetensors")
pytest.importorskip("asteroid")
from architectures import PLAIN, SEPARATORS, randomised, shape_of

from sepprune_tp import SepPrunePruner, history, load_pruned, reconstruct, save_pruned
from sepprune_tp import restore_dense as restore
from sepprune_tp.checkpoint.structure import named_tensors
from sepprune_tp.errors import CheckpointError
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.graph.lineage import lineage_of

BUILDERS = {**SEPARATORS, **PLAIN}
TIME = 400
TRIED = [
    "ConvTasNet-gLN",
    "ConvTasNet-bN",
    "DPRNNTasNet-LSTM-bi",
    "DPRNNTasNet-GRU-uni",
    "SuDORMRFImprovedNet",
    "DCCRNet",
    "DPTNet",
    "DPTNet-input-layer",
    "FasNetTAC-gLN",
    "PlainConv",
    "PlainAttention",
]
WITHOUT_POOLING = ["ConvTasNet-fgLN", "ConvTasNet-bN", "DCCRNet", "DCUNet-pad", "TDConvNetpp-fgLN"]


def built(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape_of(name, 1, TIME), generator=generator, dtype=dtype)
    return randomised(BUILDERS[name], seed, dtype), x


def cut(model: nn.Module, x: Tensor, ratio: float = 0.3) -> nn.Module:
    magnitude = tp.importance.GroupMagnitudeImportance()
    SepPrunePruner(model, x, magnitude, ratio, scope="all").step()
    return model


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in named_tensors(model)}


def assert_same(one: nn.Module, two: nn.Module) -> None:
    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def shaken(model: nn.Module) -> nn.Module:
    """Stands for training: every weight is another."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += 0.1 * noise
    return model


@pytest.mark.parametrize("name", TRIED)
def test_undoing_cuts_gives_the_dense_model(name: str, tmp_path: Path) -> None:
    dense, x = built(name)
    pruned = cut(cut(copy.deepcopy(dense), x), x, 0.2)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in dense.parameters())
    assert_same(restore(pruned, dense), dense)
    if name in SEPARATORS:
        again = load_pruned(save_pruned(pruned, tmp_path / "small.safetensors"))
        assert_same(restore(again, dense), dense)
    changed = restore(shaken(copy.deepcopy(pruned)), dense)
    differs = [n for n, t in tensors(changed).items() if not torch.equal(t, tensors(dense)[n])]
    assert differs, "trained channels must show"


@pytest.mark.parametrize("name", ["ConvTasNet-gLN", "SuDORMRFImprovedNet"])
def test_indices_are_those_of_the_dense_model(name: str, tmp_path: Path) -> None:
    """Rows that are numbered in the dense model say the same after three cuts and two files."""
    dense, x = built(name)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape))
    pruned = copy.deepcopy(dense)
    for number in range(3):
        pruned = load_pruned(save_pruned(cut(pruned, x, 0.2), tmp_path / f"{number}.safetensors"))
    past = history(tmp_path / "2.safetensors")
    assert [event.what for event in past.events] == ["cut"] * 3
    layers, whole = dict(pruned.named_modules()), dict(dense.named_modules())
    compared = 0
    for group, kept in past.kept.items():
        layer: Any = layers.get(group)
        if isinstance(layer, (nn.Conv1d, nn.Linear)) and len(kept) == len(layer.weight):
            compared += 1
            rows = whole[group].weight.flatten(1)  # type: ignore[union-attr, operator]
            found = layer.weight.flatten(1)
            # inputs may be cut, too: a row keeps its order, and its numbers are among the dense
            for row, index in zip(found.tolist(), kept, strict=True):
                assert set(row) <= set(rows[index].tolist())
    assert compared
    for earlier, later in zip(past.events, past.events[1:], strict=False):
        assert all(set(later.kept[n]) < set(earlier.kept[n]) for n in earlier.kept)


@pytest.mark.parametrize("name", WITHOUT_POOLING)
def test_closed_computes_what_the_pruned_model_does(name: str) -> None:
    dense, x = built(name, torch.float64)
    pruned = shaken(cut(copy.deepcopy(dense), x))
    assert not history(pruned).pooling
    whole = restore(pruned, dense, closed=True)
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in dense.parameters())
    with torch.no_grad():
        expected, found, opened = pruned.eval()(x), whole(x), restore(pruned, dense)(x)
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= 1e-10 * scale
    assert (opened - expected).abs().max() > 1e-3 * scale, "with the dense channels it differs"


def test_closed_says_where_norms_pool() -> None:
    dense, x = built("ConvTasNet-gLN", torch.float64)
    pruned = cut(copy.deepcopy(dense), x)
    assert history(pruned).pooling
    with torch.no_grad():
        gap = restore(pruned, dense, closed=True)(x) - pruned.eval()(x)
    assert gap.abs().max() > 1e-6, "otherwise they need not be named"


def test_history_of_cuts_reconstruction_and_training(tmp_path: Path) -> None:
    dense, x = built("ConvTasNet-gLN")
    assert lineage_of(dense) is None
    model = copy.deepcopy(dense)
    kept = KeptChannels(model)
    cut(model, x)
    reconstruct(model, dense, [torch.randn(2, TIME)], kept)
    facts = {"budget": {"macs": {"cost": 30, "dense": 100, "bound": 40}}, "figure": 1.5}
    path = save_pruned(model, tmp_path / "one.safetensors", metadata=facts)
    again = save_pruned(cut(load_pruned(path), x, 0.2), tmp_path / "two.safetensors")
    past = history(again)
    assert [event.what for event in past.events] == ["cut", "reconstructed", "cut"]
    assert past.events[0].facts == facts and past.events[1].facts["mixtures"] == 2
    assert past.dense["class"] == "ConvTasNet"
    assert past.dense["params"] == sum(p.numel() for p in dense.parameters())
    assert "30.0% of 40.0%" in str(past)
    plain = json.loads(json.dumps(past.plain()))
    for name, group in plain["groups"].items():
        assert group["kept"] == past.kept[name] and group["size"] == past.sizes[name]
        assert group["kept"] == sorted(group["kept"]) and max(group["kept"]) < group["size"]


def test_recovery_is_an_event() -> None:
    pytest.importorskip("lightning")
    from sepprune_tp.recovery import finetune

    dense, x = built("ConvTasNet-bN")
    model = cut(copy.deepcopy(dense), x)
    batches = [(torch.randn(2, TIME), torch.randn(2, 2, TIME))]
    finetune(model, batches, batches, steps=2, val_every=1, progress=False, accelerator="cpu")
    event = history(model).events[-1]
    assert event.what == "recovered" and event.facts["settings"]["steps"] == 2
    assert not all(
        torch.equal(t, tensors(dense)[n]) for n, t in tensors(restore(model, dense)).items()
    )


def test_other_dense_models_are_refused() -> None:
    dense, x = built("ConvTasNet-gLN")
    pruned = cut(copy.deepcopy(dense), x)
    with torch.no_grad():
        next(dense.parameters()).flatten()[0] += 1e-3
    with pytest.raises(CheckpointError, match=r"not the model that was pruned: .*SHA-256"):
        restore(pruned, dense)
    with pytest.raises(CheckpointError, match="not the model that was pruned"):
        restore(pruned, built("DPTNet")[0])


def test_models_and_files_without_history(tmp_path: Path) -> None:
    dense, _ = built("ConvTasNet-gLN")
    path = save_pruned(dense, tmp_path / "dense.safetensors")
    with pytest.raises(CheckpointError, match=r"dense.safetensors tells nothing of its past"):
        history(path)
    with pytest.raises(CheckpointError, match="tells nothing of its past"):
        restore(path, dense)


def test_a_model_that_was_changed_otherwise_is_refused(tmp_path: Path) -> None:
    dense, x = built("ConvTasNet-gLN")
    pruned = cut(copy.deepcopy(dense), x)
    convolution: Any = next(m for m in pruned.modules() if isinstance(m, nn.Conv1d))
    convolution.weight = nn.Parameter(convolution.weight[:-1])
    with pytest.raises(CheckpointError, match="changed by something else"):
        restore(pruned, dense)


def test_pickled_models_remember_without_our_classes(tmp_path: Path) -> None:
    dense, x = built("ConvTasNet-gLN")
    pruned = cut(copy.deepcopy(dense), x)
    torch.save(pruned, tmp_path / "model.pt")
    assert b"sepprune_tp.graph" not in (tmp_path / "model.pt").read_bytes()
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert history(again).plain() == history(pruned).plain()
    assert_same(restore(again, dense), dense)
    assert lineage_of(copy.deepcopy(pruned)) is not lineage_of(pruned)


def test_a_pruning_function_that_is_no_selection(tmp_path: Path) -> None:
    """What cannot be followed is said, not guessed."""

    class Reshaping(tp.pruner.function.BasePruningFunc):
        def prune_out_channels(self, layer: Any, idxs: Any) -> Any:
            keep = [i for i in range(layer.gain.shape[-1]) if i not in idxs]
            layer.gain = nn.Parameter(layer.gain.data[..., keep][None])
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: Any) -> int:
            return int(layer.gain.shape[-1])

        get_in_channels = get_out_channels

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.rand(8))

        def forward(self, x: Tensor) -> Tensor:
            return (x.transpose(1, 2) * self.gain).transpose(1, 2).sin()

    model = nn.Sequential(nn.Conv1d(1, 8, 3), Odd(), nn.Conv1d(8, 1, 3))
    dense = copy.deepcopy(model)
    magnitude = tp.importance.GroupMagnitudeImportance()
    options = {"scope": "all", "customized_pruners": {Odd: Reshaping()}}
    SepPrunePruner(model, torch.randn(1, 1, 32), magnitude, 0.5, **options).step()
    assert model[0].out_channels == 4
    with pytest.raises(CheckpointError, match="'1' was cut could not be followed"):
        restore(model, dense)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    from sepprune_tp.cli import main

    dense, x = built("ConvTasNet-bN")
    given = save_pruned(dense, tmp_path / "dense.safetensors")
    pruned = save_pruned(cut(copy.deepcopy(dense), x), tmp_path / "small.safetensors")
    assert main(["history", str(pruned)]) == 0
    assert "of 12: " in capsys.readouterr().out
    assert main(["history", str(pruned), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == history(pruned).plain()
    out = tmp_path / "again.safetensors"
    assert main(["undo", str(pruned), "--dense", str(given), "-o", str(out)]) == 0
    assert "the same as the dense model" in capsys.readouterr().out
    assert_same(load_pruned(out), dense)
    assert main(["undo", str(pruned), "--dense", str(given), "-o", str(out), "--closed"]) == 0
    assert "removed channels back as zeros" in capsys.readouterr().out
    assert main(["undo", str(pruned), "--dense", str(pruned), "-o", str(out)]) == 2
    assert "not the model that was pruned" in capsys.readouterr().err
    assert main(["history", str(given)]) == 2
    assert "tells nothing of its past" in capsys.readouterr().err


def test_undo_of_models_that_are_not_asteroids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typer")
    from sepprune_tp.cli import main

    dense, x = built("PlainConv")
    given = save_pruned(dense, tmp_path / "dense.safetensors")
    pruned = save_pruned(cut(copy.deepcopy(dense), x), tmp_path / "small.safetensors")
    words = [f"{path}@architectures:PlainConv" for path in (pruned, given)]
    out = tmp_path / "again.safetensors"
    assert main(["undo", words[0], "--dense", words[1], "-o", str(out)]) == 0
    assert "channels back" in capsys.readouterr().out
    assert_same(load_pruned(out, BUILDERS["PlainConv"]()), dense)
