from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from architectures import SEPARATORS, randomised
from torch import Tensor, nn
from typer.testing import CliRunner

from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner, quantise, save_pruned
from sepprune_tp.commands import app
from sepprune_tp.errors import InputError, SepPruneError
from sepprune_tp.exporting import export_model


def mixture(batch: int = 1, time: int = 640) -> Tensor:
    return torch.randn(batch, time, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "kinds", "least"),
    [
        ("DPRNNTasNet-LSTM-bi", {"LSTM", "Linear"}, 25),
        ("DPRNNTasNet-GRU-uni", {"GRU", "Linear"}, 25),
        ("DPRNNTasNet-RNN-bi", {"Linear"}, 25),
        ("DPTNet", {"LSTM", "Linear"}, 25),
        ("LSTMTasNet-3-layers-bi", {"LSTM", "Linear"}, 25),
        ("DCCRNet", {"LSTM", "Linear"}, 25),
    ],
)
def test_layers_become_int8_and_the_output_stays(name: str, kinds: set[str], least: float) -> None:
    model = randomised(SEPARATORS[name], 0, torch.float32).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = quantise(model, mixture())
    report = small.quantisation
    assert {kind for _, kind in report.layers} == kinds
    assert least < report.agreement < 120 and 0 < report.share < 1
    modules = dict(small.named_modules())
    assert all("quantized" in type(modules[layer]).__module__ for layer, _ in report.layers)
    assert model.training and not small.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert small(mixture(2, 901)).shape == (2, model.eval()(mixture(2, 901)).shape[1], 901)


def test_a_pruned_model_of_some_size_shrinks() -> None:
    from asteroid.models import LSTMTasNet

    model = LSTMTasNet(n_src=2, n_filters=32, hid_size=128, n_layers=2, dropout=0.0)
    x = mixture()
    gates = GateSet(model, x)
    gates.load_masks({g.name: torch.arange(g.size) % 4 > 0 for g in gates.groups})
    SepPrunePruner(model, x, SepPruneImportance(gates)).step()
    report = quantise(model, x).quantisation
    assert report.bytes_after < 0.35 * report.bytes_before
    assert report.share > 0.9
    lines = str(report).splitlines()
    assert lines[0].startswith("int8: 1 LSTM, 1 Linear") and "dB above the difference" in lines[1]


@pytest.mark.parametrize("name", ["ConvTasNet-gLN", "SuDORMRFImprovedNet"])
def test_a_network_of_convolutions_gains_nothing(name: str) -> None:
    with pytest.raises(InputError, match="a network of convolutions gains nothing"):
        quantise(SEPARATORS[name]())


def test_only_float32_is_quantised() -> None:
    with pytest.raises(InputError, match=r"torch\.float64; .* Call model\.float\(\)"):
        quantise(SEPARATORS["DPTNet"]().double())


def test_projections_and_the_model_itself_stay_float() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 6, proj_size=3))
    assert quantise(model).quantisation.layers == (("0", "Linear"),)
    with pytest.raises(InputError, match="gains nothing"):
        quantise(nn.Linear(4, 4))


def test_an_int8_model_is_not_saved(tmp_path: Path) -> None:
    small = quantise(randomised(SEPARATORS["DPTNet"], 0, torch.float32))
    with pytest.raises(SepPruneError, match="Save the model that it was made from"):
        save_pruned(small, tmp_path / "small.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["DPRNNTasNet-LSTM-bi", "DPTNet", "LSTMTasNet-1-layers-bi"])
def test_an_int8_file(name: str, tmp_path: Path) -> None:
    model, path = randomised(SEPARATORS[name], 0, torch.float32), tmp_path / "model.pt"
    exported = export_model(model, mixture(), path, int8=True)
    assert exported.any_length and exported.quantisation is not None
    loaded = torch.jit.load(path)
    x = mixture(1, 1203)
    with torch.no_grad():
        expected, found = model(x), loaded(x)
    difference = (found - expected).square().sum()
    assert 0 < difference < 10**-2.5 * expected.square().sum()


def test_int8_is_for_torchscript(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="written as TorchScript, not onnx"):
        export_model(SEPARATORS["DPTNet"](), mixture(), tmp_path / "model.onnx", int8=True)


def test_the_command(tmp_path: Path) -> None:
    model = randomised(SEPARATORS["LSTMTasNet-1-layers-bi"], 0, torch.float32)
    path = save_pruned(model, tmp_path / "model.safetensors")
    options = ["--int8", "--seconds", "0.1", "-o", str(tmp_path / "small.pt")]
    result = CliRunner().invoke(app, ["export", str(path), *options])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "small.pt").exists() and "int8: 1 LSTM, 1 Linear" in result.output
