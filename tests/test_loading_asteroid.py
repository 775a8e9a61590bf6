"""Asteroid's files of all ages are read, pruned models stay Asteroid's; no file runs code."""

from __future__ import annotations

import os
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

models = pytest.importorskip("asteroid.models")
pytest.importorskip("safetensors")
from small_tasnet import ARGS, assert_same, pruned, tasnet  # noqa: E402

from sepprune_tp import save_pruned  # noqa: E402
from sepprune_tp.errors import CheckpointError, InputError  # noqa: E402
from sepprune_tp.loading import load_model  # noqa: E402


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


class TestAsteroidsFiles:
    def test_what_serialize_gives_with_all_that_publishing_adds(self, tmp_path: Path) -> None:
        conf = tasnet().serialize()
        # Scores are means of NumPy's, configurations come from a command line.
        conf["infos"]["final_metrics"] = {"si_sdr": np.float64(16.2), "n": np.int64(3)}
        conf["infos"]["training_config"] = {
            "main_args": Namespace(exp=tmp_path),
            "f": np.float32(1),
        }
        for new in (True, False):
            path = tmp_path / "model.pth"
            torch.save(conf, path, _use_new_zipfile_serialization=new)
            assert_same(load_model(path), tasnet())

    def test_numbers_survive(self, tmp_path: Path) -> None:
        from sepprune_tp.files.torch_archives import read_plain

        values = [np.float64(1.5), np.float32(2.5), np.float16(0.5), np.int64(-3), np.bool_(True)]
        torch.save({"values": values, "path": tmp_path}, tmp_path / "x.pth")
        read = read_plain(tmp_path / "x.pth")
        assert read == {"values": [1.5, 2.5, 0.5, -3, True], "path": str(tmp_path)}

    def test_before_there_were_sample_rates(self, tmp_path: Path) -> None:
        conf = tasnet().serialize()
        del conf["model_args"]["sample_rate"], conf["infos"]
        torch.save(conf, tmp_path / "old.pth")
        loaded = load_model(tmp_path / "old.pth")
        assert_same(loaded, tasnet())
        assert loaded.sample_rate is None  # nothing says it: no guess
        conf["infos"] = {"training_config": {"data": {"sample_rate": 16000}}}
        torch.save(conf, tmp_path / "old.pth")
        assert load_model(tmp_path / "old.pth").sample_rate == 16000

    @pytest.mark.parametrize("name", ["convtasnet", "asteroid.models.conv_tasnet.ConvTasNet"])
    def test_names_as_asteroid_takes_them(self, tmp_path: Path, name: str) -> None:
        torch.save({**tasnet().serialize(), "model_name": name}, tmp_path / "model.pth")
        assert_same(load_model(tmp_path / "model.pth"), tasnet())

    @pytest.mark.parametrize(
        ("name", "args"),
        [
            ("ConvTasNet", ARGS),
            ("SuDORMRFNet", {"n_src": 2, "n_filters": 16, "bn_chan": 8, "num_blocks": 1}),
            ("SuDORMRFImprovedNet", {"n_src": 2, "n_filters": 16, "bn_chan": 8, "num_blocks": 1}),
            ("DPRNNTasNet", {"n_src": 2, "n_filters": 16, "bn_chan": 8, "hid_size": 8}),
        ],
    )
    def test_without_a_name_the_class_is_found(
        self, tmp_path: Path, name: str, args: dict[str, Any]
    ) -> None:
        model = getattr(models, name)(**args).eval()
        conf = {k: v for k, v in model.serialize().items() if k != "model_name"}
        torch.save(conf, tmp_path / "model.pth")
        loaded = load_model(tmp_path / "model.pth")
        assert type(loaded) is type(model)
        assert_same(loaded, model)

    def test_training_checkpoint_of_a_recipe(self, tmp_path: Path) -> None:
        model = tasnet()
        weights = {f"model.{name}": value for name, value in model.state_dict().items()}
        filterbank = {"n_filters": 16, "kernel_size": 16, "stride": 8}
        masknet = {k: v for k, v in ARGS.items() if k not in ("n_filters", "n_src")}
        config = {"filterbank": filterbank, "masknet": masknet}
        config["data"] = {"n_src": 2, "sample_rate": 16000, "train_dir": "data"}
        checkpoint = {
            "epoch": 3,
            "pytorch-lightning_version": "1.5.0",
            "state_dict": {**weights, "loss_func.weight": torch.ones(1)},
            "callbacks": {"ModelCheckpoint": {"best_model_path": tmp_path}},
            "training_config": config,
        }
        torch.save(checkpoint, tmp_path / "last.ckpt")
        loaded = load_model(tmp_path / "last.ckpt")
        assert_same(loaded, model)
        assert loaded.sample_rate == 16000

    @pytest.mark.parametrize("way", ["dense", "pruned"])
    def test_asteroids_own_training(self, tmp_path: Path, way: str) -> None:
        """What its ``System`` writes, with and without pruning on the way."""
        pl = pytest.importorskip("pytorch_lightning")
        from asteroid.engine.system import System

        from sepprune_tp import Budget
        from sepprune_tp.lightning import PruneCallback
        from sepprune_tp.losses import pit_neg_si_sdr

        model = tasnet()
        config = {
            "filterbank": {"n_filters": 16, "kernel_size": 16, "stride": 8},
            "masknet": {k: v for k, v in ARGS.items() if k != "n_filters"},
            "data": {"sample_rate": 8000},
        }
        items = [(torch.randn(400), torch.randn(2, 400)) for _ in range(4)]
        batches = torch.utils.data.DataLoader(items, batch_size=2)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(model.parameters())
        system = System(model, optimizer, pit_neg_si_sdr, batches, batches, config=config)
        keep = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
        shrink = (
            [PruneCallback(Budget(macs=0.6), search_steps=2, progress=False)]
            if way == "pruned"
            else []
        )
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = pl.Trainer(
            max_epochs=1, callbacks=[*shrink, keep], accelerator="cpu", limit_val_batches=0, **quiet
        )
        trainer.fit(system)
        loaded = load_model(tmp_path / "last.ckpt")
        smaller = sum(p.numel() for p in loaded.parameters()) < sum(
            p.numel() for p in tasnet().parameters()
        )
        assert smaller == (way == "pruned")
        assert_same(loaded, system.model.eval())

    def test_hyper_parameters_with_the_arguments(self, tmp_path: Path) -> None:
        weights = {f"model.module.{k}": v for k, v in tasnet().state_dict().items()}
        named = {"model_name": "ConvTasNet", "model_args": {**ARGS, "sample_rate": 8000}}
        torch.save({"state_dict": weights, "hyper_parameters": named}, tmp_path / "last.ckpt")
        assert_same(load_model(tmp_path / "last.ckpt"), tasnet())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"state_dict": {}, "epoch": 3}, r"training checkpoint.*'training_config'"),
            ({"a.weight": torch.ones(2)}, "only weights without the model"),
            ([torch.ones(2)], "holds a list"),
            ({"model_name": "TasNet", "model_args": {"n": 1}, "state_dict": {}}, "has no such"),
            ({"model_args": {"no": 1}, "state_dict": {}}, "does not name the class"),
        ],
    )
    def test_what_lacks_is_said(self, tmp_path: Path, content: Any, message: str) -> None:
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=message) as raised:
            load_model(tmp_path / "x.pth")
        assert str(tmp_path / "x.pth") in str(raised.value)

    def test_weights_of_other_sizes(self, tmp_path: Path) -> None:
        conf = tasnet().serialize()
        conf["model_args"]["hid_chan"] = 10
        torch.save(conf, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=r"do not fit the ConvTasNet.*save_pruned"):
            load_model(tmp_path / "x.pth")

    def test_script(self, tmp_path: Path) -> None:
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
        with pytest.raises(CheckpointError, match="TorchScript archive"):
            load_model(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "way", ["zip", "legacy", "pickle0", "pickle4", "whole model", "fake numpy"]
)
def test_a_file_that_runs_code_is_refused(tmp_path: Path, way: str) -> None:
    path, marker = tmp_path / "model.pth", tmp_path / "ran"
    bad = {**tasnet().serialize(), "infos": Evil(marker)}
    if way in ("zip", "legacy"):
        torch.save(bad, path, _use_new_zipfile_serialization=way == "zip")
    elif way == "whole model":
        model = tasnet()
        model.extra = Evil(marker)
        torch.save(model, path)
    elif way == "fake numpy":
        torch.save({"x": np.array([Evil(marker)], dtype=object)}, path)
    else:
        path.write_bytes(pickle.dumps(bad, protocol=int(way[-1])))
    with pytest.raises(CheckpointError):
        load_model(path)
    assert not marker.exists()
    if way == "zip":  # negative control: it would have
        torch.load(path, weights_only=False)
        assert marker.exists()


class TestPrunedModelsAreAsteroids:
    @pytest.mark.parametrize("name", ["ConvTasNet", "DPRNNTasNet", "DPTNet"])
    def test_serialize_round_trip(self, tmp_path: Path, name: str) -> None:
        args = {"n_src": 2, "n_filters": 16, "bn_chan": 8, "n_repeats": 2}
        args |= ARGS if name == "ConvTasNet" else {}
        args |= {"hid_size": 8} if name == "DPRNNTasNet" else {}
        args = args if name != "DPTNet" else {"n_src": 2, "n_filters": 16, "n_repeats": 1}
        model = pruned(getattr(models, name)(**args).eval())
        torch.save(model.serialize(), tmp_path / "pruned.pth")
        loaded = load_model(tmp_path / "pruned.pth")
        assert repr(loaded) == repr(model)
        assert loaded.get_model_args() == model.get_model_args()
        assert_same(loaded, model)
        again = type(model).from_pretrained(model.serialize())
        assert_same(again, model)
        assert torch.load(tmp_path / "pruned.pth", weights_only=False)["sepprune_tp"]
        held = {p.data_ptr() for p in model.parameters()}
        assert not held & {p.data_ptr() for p in again.parameters()}

    def test_a_dense_model_serializes_as_ever(self) -> None:
        assert set(tasnet().serialize()) == {"model_name", "state_dict", "model_args", "infos"}
        conf = tasnet().serialize()
        assert_same(models.ConvTasNet.from_pretrained(conf).eval(), tasnet())

    def test_from_pretrained_takes_our_files(self, tmp_path: Path) -> None:
        model = pruned(tasnet())
        path = save_pruned(model, tmp_path / "small.safetensors")
        for cls in (models.ConvTasNet, models.BaseModel):
            assert_same(cls.from_pretrained(str(path)), model)
        with pytest.raises(CheckpointError, match="holds a ConvTasNet, not a DPRNNTasNet"):
            models.DPRNNTasNet.from_pretrained(str(path))
        with pytest.raises(InputError, match="Leave them out"):
            models.ConvTasNet.from_pretrained(str(path), n_src=3)

    def test_other_files_go_to_asteroid(self, tmp_path: Path) -> None:
        torch.save({"model_name": "x"}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="Expected config dictionary"):
            models.ConvTasNet.from_pretrained(str(tmp_path / "x.pth"))

    def test_separate_as_asteroid_does(self, tmp_path: Path) -> None:
        soundfile = pytest.importorskip("soundfile")
        model = pruned(tasnet())
        loaded = load_model(save_pruned(model, tmp_path / "small.safetensors"))
        mixture = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
        assert loaded.separate(mixture).shape == (1, 2, 4000)
        soundfile.write(tmp_path / "mix.wav", mixture[0].numpy(), 8000)
        loaded.separate(str(tmp_path / "mix.wav"))
        assert {p.name for p in tmp_path.glob("*.wav")} == {
            "mix.wav",
            "mix_est1.wav",
            "mix_est2.wav",
        }
