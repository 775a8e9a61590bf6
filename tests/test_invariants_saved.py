"""The invariant of files: loaded in a fresh process, a pruned model gives the bits that it gave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from laws import example, gated, keep_by, pruned_copy
from torch import Tensor

from sepprune_tp.checkpoint import save_pruned

LOADED = (
    "ConvTasNet-gLN",
    "ConvTasNet-no-skip",
    "ConvTasNet-bN",
    "SuDORMRFNet",
    "SuDORMRFImprovedNet",
    "DPRNNTasNet-LSTM-bi",
    "DPRNNTasNet-mulcat",
    "DPRNNTasNet-cLN-2-layers",
    "LSTMTasNet-3-layers-bi",
    "ConvTasNet-analytic",
    "DPTNet",
    "DPTNet-input-layer",
    "DCCRNet-2-sources",
    "DCUNet-trim-2-sources",
    "DeMask-cat-reim-bN",
    "DeMask-analytic",
    "FasNetTAC-gLN",
    "FasNetTAC-fgLN-no-TAC",
)
LOADER = """
import sys
from pathlib import Path
import pickle
import torch
from sepprune_tp.checkpoint import load_pruned

def refuse(*args, **kwargs):
    raise AssertionError("a pickle was executed")

pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
torch.set_num_threads(1)
folder = Path(sys.argv[1])
from safetensors.torch import load_file, save_file
inputs = load_file(folder / "x.bin")
with torch.no_grad():
    outputs = {n: load_pruned(folder / f"{n}.safetensors")(x) for n, x in sorted(inputs.items())}
save_file(outputs, folder / "outputs.bin")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    safetensors = pytest.importorskip("safetensors.torch")
    folder = tmp_path_factory.mktemp("saved")
    safetensors.save_file({name: example(name, 2) for name in LOADED}, folder / "x.bin")
    here: dict[str, Tensor] = {}
    for name in LOADED:
        gates, x = gated(name, "all"), example(name, 2)
        gates.load_masks(keep_by(gates, "odd"))
        model = pruned_copy(gates, x).eval()
        save_pruned(model, folder / f"{name}.safetensors")
        with torch.no_grad():
            here[name] = model(x)
    command = [sys.executable, "-c", LOADER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    yield folder, here


@pytest.mark.parametrize("name", LOADED)
def test_loaded_in_a_fresh_process_gives_the_same_bits(
    name: str, saved: tuple[Path, dict[str, Tensor]]
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    folder, here = saved
    there = safetensors.load_file(folder / "outputs.bin")
    assert torch.equal(there[name], here[name])
