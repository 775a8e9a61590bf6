from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from architectures import SEPARATORS, randomised, shape_of
from asteroid import models
from backbones import BACKBONES
from torch import Tensor, nn
from torch.nn import functional as F

from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner
from sepprune_tp.errors import CheckpointError, InputError
from sepprune_tp.exporting import FORMATS, export_model
from sepprune_tp.exporting.formats import read_exported
from sepprune_tp.exporting.operations import (
    ExportableOperations,
    frames,
    nearest,
    overlap_add,
    pooled,
)
from sepprune_tp.exporting.portable import portable_copy

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
COMPLEX = "complex numbers"
RECURRENT = "unrolls the recurrent layer"
COUNTS = "fails|cannot follow its code"

TABLE: dict[str, tuple[str, dict[str, str]]] = {
    "ConvTasNet": ("ConvTasNet-gLN", {}),
    "DPRNNTasNet": ("DPRNNTasNet-LSTM-bi", {"pt2": RECURRENT}),
    "DPTNet": ("DPTNet", {"pt2": RECURRENT}),
    "SuDORMRFNet": ("SuDORMRFNet", {}),
    "SuDORMRFImprovedNet": ("SuDORMRFImprovedNet", {}),
    "LSTMTasNet": ("LSTMTasNet-1-layers-bi", {"pt2": RECURRENT}),
    "TDConvNetpp": ("TDConvNetpp-fgLN", {}),
    "DeMask": ("DeMask-mag-mag-gLN", {}),
    "DCUNet": ("DCUNet-pad", {"onnx": COMPLEX}),
    "DCCRNet": ("DCCRNet", {"onnx": COMPLEX, "pt2": RECURRENT}),
    "AFRCNN": ("AFRCNN", {}),
    "SuDoRMRF": ("SuDoRMRF", {}),
    "TDANet": ("TDANet", {}),
    "FasNetTAC": ("FasNetTAC-gLN", {"torchscript": COUNTS, "onnx": COUNTS, "pt2": RECURRENT}),
}
"""For each architecture a small model, and the formats that it cannot be written in, and why."""


def mixture(name: str, time: int = 640) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape_of(name, 1, time), generator=generator)


SLOW = {
    (name, "pt2")
    for name in ("DCUNet", "SuDORMRFNet", "TDConvNetpp", "AFRCNN", "SuDoRMRF", "TDANet")
}
MODELS = SEPARATORS | BACKBONES
CASES = [
    pytest.param(a, f, marks=[pytest.mark.slow] if (a, f) in SLOW else [])
    for a in TABLE
    for f in FORMATS
]


@pytest.mark.parametrize(("architecture", "format"), CASES)
def test_what_works(architecture: str, format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    name, refused = TABLE[architecture]
    model, path = randomised(MODELS[name], 0, torch.float32), tmp_path / "model"
    if format in refused:
        with pytest.raises(CheckpointError, match=refused[format]) as caught:
            export_model(model, mixture(name), path, format)
        assert "--format" in str(caught.value) or "--fixed-length" in str(caught.value)
        assert list(tmp_path.iterdir()) == []
        return
    before = copy.deepcopy(model.state_dict())
    exported = export_model(model.train(), mixture(name), path, format)
    assert list(tmp_path.iterdir()) == [path]
    assert exported.any_length and exported.difference < 1e-5
    assert exported.shapes == ((1, 640), (1, 493), (1, 902), (2, 640))
    assert model.training and "forward" not in vars(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_page_says_so() -> None:
    rows = re.findall(r"^\| (\w+) \| (yes|no) \| (yes|no) \| (yes|no) \|$", PAGE.read_text(), re.M)
    said = {row[0]: dict(zip(FORMATS, row[1:], strict=True)) for row in rows}
    assert said == {
        architecture: {f: "no" if f in refused else "yes" for f in FORMATS}
        for architecture, (_, refused) in TABLE.items()
    }


@pytest.mark.parametrize(
    "name", ["ConvTasNet-causal-cgLN", "ConvTasNet-analytic", "DPTNet-input-layer"]
)
def test_other_variants_in_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = randomised(MODELS[name], 0, torch.float32)
    assert export_model(model, mixture(name), tmp_path / "model.onnx").format == "onnx"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SuDORMRFNet", "SuDORMRFImprovedNet"])
def test_levels_of_odd_and_even_lengths_in_pt2(name: str, tmp_path: Path) -> None:
    """The levels of the U-Net have 251, 126, 63, 32 positions at 2000 samples: some are cut."""
    sizes = {"n_filters": 16, "bn_chan": 8, "num_blocks": 1, "upsampling_depth": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(models, name)(n_src=2, kernel_size=16, stride=8, **sizes).eval()
    exported = export_model(model, torch.randn(1, 2000), tmp_path / "model.pt2")
    assert exported.any_length
    run = read_exported(exported.path)
    for time in (1240, 2001, 2480, 4999):
        x = torch.randn(1, time)
        assert torch.allclose(run(x), model(x), atol=1e-5)


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_a_pruned_model(format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    name = "DPRNNTasNet-LSTM-bi"
    model, x = randomised(MODELS[name], 0, torch.float32), mixture(name)
    gates = GateSet(model, x)
    gates.load_masks({g.name: torch.arange(g.size) % 3 > 0 for g in gates.groups})
    SepPrunePruner(model, x, SepPruneImportance(gates)).step()
    assert export_model(model, x, tmp_path / "model", format).difference < 1e-5


@pytest.mark.parametrize("name", [one for one, _ in TABLE.values()])
def test_the_copy_computes_the_same(name: str) -> None:
    model = randomised(MODELS[name], 0, torch.float64)
    portable = portable_copy(model)
    for time in (640, 901):
        x = mixture(name, time).double()
        with torch.no_grad(), ExportableOperations():
            found = portable(x)
        with torch.no_grad():
            expected = model(x)
        assert (found - expected).abs().max() <= 1e-11 * expected.abs().max()


@pytest.mark.parametrize(("kernel", "hop"), [(20, 10), (20, 7), (5, 5), (5, 8), (16, 4), (1, 1)])
def test_frames_and_overlap_add(kernel: int, hop: int) -> None:
    x = torch.randn(2, 3, 97, dtype=torch.float64)
    expected = F.unfold(x.unsqueeze(-1), (kernel, 1), padding=(kernel, 0), stride=(hop, 1))
    found = frames(x, kernel, hop, kernel)
    assert torch.equal(found.flatten(1, 2), expected)
    added = F.fold(expected, (97, 1), (kernel, 1), padding=(kernel, 0), stride=(hop, 1))
    assert torch.allclose(overlap_add(found, 97, hop, kernel), added.squeeze(-1), atol=1e-13)
    with ExportableOperations():
        rows = F.unfold(x.unsqueeze(2), (1, kernel), padding=(0, kernel), stride=(1, hop))
        back = F.fold(rows, (1, 97), (1, kernel), padding=(0, kernel), stride=(1, hop))
    assert torch.equal(rows, expected) and torch.allclose(back[:, :, 0], added[..., 0], atol=1e-13)


@pytest.mark.parametrize(("time", "size"), [(17, 5), (16, 4), (5, 5), (33, 16), (3, 7), (9, 1)])
def test_pooling(time: int, size: int) -> None:
    x = torch.randn(2, 3, time, dtype=torch.float64)
    expected = F.adaptive_avg_pool1d(x, size)
    assert torch.allclose(pooled(x, size), expected, atol=1e-14)
    with ExportableOperations():
        assert torch.equal(nn.AdaptiveAvgPool1d(size)(x), pooled(x, size))


@pytest.mark.parametrize("time", [1, 3, 7, 50, 113, 226])
def test_nearest(time: int) -> None:
    x = torch.randn(2, 3, time)
    for size in (1, 2, 5, 97, 100, 113, 226, 451):
        expected = F.interpolate(x, size=size)
        assert torch.equal(nearest(x, size), expected)
        with ExportableOperations():
            assert torch.equal(F.interpolate(x, size=size), expected)
            assert torch.equal(F.interpolate(x, scale_factor=2), F.interpolate(x, size=2 * time))


def test_frames_over_two_axes_are_refused() -> None:
    x = torch.randn(1, 1, 8, 8)
    with ExportableOperations(), pytest.raises(CheckpointError, match="unfold over two axes"):
        F.unfold(x, 3)
    with ExportableOperations(), pytest.raises(CheckpointError, match="fold over two axes"):
        F.fold(torch.randn(1, 9, 36), (8, 8), 3)


class Counts(nn.Module):
    """Takes a size as a number: right for one length only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, -x], 1) * float(len(x[0]))


def test_a_file_for_one_length_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(CheckpointError, match=r"differs by .* on a mixture of shape \(1, 77\)"):
        export_model(Counts(), torch.randn(1, 100), path)
    assert list(tmp_path.iterdir()) == []
    exported = export_model(Counts(), torch.randn(1, 100), path, any_length=False)
    assert not exported.any_length and exported.shapes == ((1, 100),) and path.exists()


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, torch.rand_like(x)], 1)


def test_a_file_that_differs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="depends on the values"):
        export_model(Random(), torch.randn(1, 100), tmp_path / "model.pt", any_length=False)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    model = SEPARATORS["ConvTasNet-gLN"]()
    with pytest.raises(InputError, match="the formats are torchscript, onnx, pt2"):
        export_model(model, torch.randn(1, 400), tmp_path / "model", "tflite")
    with pytest.raises(InputError, match="cannot run on a mixture of shape"):
        export_model(model, torch.randn(1, 2, 3, 4), tmp_path / "model")
