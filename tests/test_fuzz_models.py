"""Files of models, changed at random: ours, Asteroid's of all ages, and Lightning's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("asteroid.models")
pytest.importorskip("safetensors.torch")
from fuzzing import COUNTS, Reader, check
from mutations import pickle_changed, safetensors_changed
from small_tasnet import ARGS, pruned, saved, tasnet

from sepprune_tp import save_pruned
from sepprune_tp.checkpoint import load_pruned, read_header
from sepprune_tp.checkpoint.form import form_of, tensors_of
from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.torch_archives import read_plain
from sepprune_tp.loading import load_model


class Own(nn.Module):
    """A model of somebody's: convolution, norm, recurrence, attention, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.rnn = nn.LSTM(8, 5, bidirectional=True, batch_first=True)
        self.heads = nn.MultiheadAttention(10, 2)
        self.last, self.tied = nn.Linear(10, 4), nn.Linear(10, 4)
        self.tied.weight = self.last.weight
        self.register_buffer("scale", torch.ones(1), persistent=False)


class Module(nn.Module):
    """What stands around a model in Lightning's checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tasnet()


def size_of(model: nn.Module) -> int:
    """Bytes of a model's tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    assert all(tensor.device.type == "cpu" for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def ours(model: nn.Module, folder: Path) -> bytes:
    return save_pruned(model, folder / "made", metadata={"si_sdri": 5.5}).read_bytes()


def recipe() -> dict[str, Any]:
    """A checkpoint of a training by Asteroid's recipes."""
    masknet = {k: v for k, v in ARGS.items() if k not in ("n_filters", "n_src")}
    config = {"filterbank": {"n_filters": 16, "kernel_size": 16, "stride": 8}, "masknet": masknet}
    weights = {f"model.{name}": value for name, value in tasnet().state_dict().items()}
    data = {"n_src": 2, "sample_rate": 16000}
    return {"epoch": 3, "state_dict": weights, "training_config": {**config, "data": data}}


def lightning_file() -> dict[str, Any]:
    """What ``PruneCallback`` leaves in a checkpoint."""
    model = pruned(tasnet())
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    told = {"epoch": 0, "params": 9, "macs": 9.0, "dense_params": 10, "dense_macs": 10.0}
    dense = {"form": form_of(tasnet()), "tensors": tensors_of(tasnet())}
    content = {"form": form_of(model), "pruned": {**told, "kept": {}}, "dense": dense}
    return {"epoch": 1, "state_dict": weights, "sepprune_tp": content}


def read_model(path: Path) -> int:
    return size_of(load_model(path))


def read_own(path: Path) -> int:
    return size_of(load_pruned(path, model=Own()))


def read_head(path: Path) -> int:
    header = read_header(path)
    return len(json.dumps([header.structure, header.architecture, header.metadata]))


def read_lightning(path: Path) -> int:
    pytest.importorskip("lightning")
    from sepprune_tp.lightning.checkpoints import load_weights

    return size_of(load_weights(Module(), path))


def read_callback(path: Path) -> int:
    """What a trainer hands to ``PruneCallback`` before it loads the weights."""
    pytest.importorskip("lightning")
    from sepprune_tp import Budget
    from sepprune_tp.lightning import PruneCallback

    checkpoint = read_plain(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError("Lightning refuses it before")
    module, callback = Module(), PruneCallback(Budget(macs=0.5), distill=0.5)
    callback._load(module, checkpoint)
    return size_of(module)


def readers(folder: Path) -> dict[str, Reader]:
    """By name."""
    serialized, small = tasnet().serialize(), pruned(tasnet())
    unnamed = {key: value for key, value in serialized.items() if key != "model_name"}
    head = (len(b"{}").to_bytes(8, "little") + b"{",)
    zips, pickles = (b"PK\x03\x04",), (b"\x80\x02",)
    starts = {"ours": head, "pickled": zips + pickles}
    made = [
        Reader(
            "model of ours",
            [ours(small, folder), ours(tasnet(), folder)],
            read_model,
            safetensors_changed,
            starts["ours"],
        ),
        Reader(
            "model of ours, of a class of the caller's",
            [ours(Own(), folder)],
            read_own,
            safetensors_changed,
            starts["ours"],
        ),
        Reader(
            "header of ours", [ours(small, folder)], read_head, safetensors_changed, starts["ours"]
        ),
    ]
    pickled = {
        "Asteroid's serialize()": ([saved(serialized)] * 2 + [saved(unnamed)], read_model),
        "Asteroid's serialize(), before torch 1.6": ([saved(serialized, new=False)], read_model),
        "serialize() of a pruned model": ([saved(small.serialize())], read_model),
        "checkpoint of a recipe": ([saved(recipe())], read_model),
        "Lightning's checkpoint, load_weights": ([saved(lightning_file())], read_lightning),
        "Lightning's checkpoint, PruneCallback": ([saved(lightning_file())], read_callback),
    }
    made += [
        Reader(name, files, read, pickle_changed, starts["pickled"])
        for name, (files, read) in pickled.items()
    ]
    return {reader.name: reader for reader in made}


NAMES = (
    "model of ours",
    "model of ours, of a class of the caller's",
    "header of ours",
    "Asteroid's serialize()",
    "Asteroid's serialize(), before torch 1.6",
    "serialize() of a pruned model",
    "checkpoint of a recipe",
    "Lightning's checkpoint, load_weights",
    "Lightning's checkpoint, PruneCallback",
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("count", (50, *COUNTS[1:]))  # where no class is named, all are built
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(1800)
def test_readers_keep_the_law(
    known: dict[str, Reader], name: str, count: int, tmp_path: Path
) -> None:
    assert set(known) == set(NAMES)
    check(known[name], tmp_path, count)
