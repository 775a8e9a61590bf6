"""Models wherever they are: files of all ages, hubs, functions; nothing in a file is executed."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

models = pytest.importorskip("asteroid.models")
hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")
from asteroid.utils import hub_utils  # noqa: E402
from huggingface_hub.file_download import repo_folder_name  # noqa: E402

from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner, save_pruned  # noqa: E402
from sepprune_tp.errors import CheckpointError, InputError  # noqa: E402
from sepprune_tp.loading import load_model  # noqa: E402
from sepprune_tp.loading.fetching import is_hub_name  # noqa: E402

ARGS: dict[str, Any] = {"n_filters": 16, "bn_chan": 8, "hid_chan": 12, "skip_chan": 8}
ARGS |= {"n_blocks": 2, "n_repeats": 1, "n_src": 2}
ZENODO = "mpariente/ConvTasNet_WHAM!_sepclean"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tasnet(**more: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return models.ConvTasNet(**ARGS, **more).eval()


def pruned(model: nn.Module, scope: str = "all") -> nn.Module:
    """About a third of the channels removed, a different number in every group."""
    x, generator = torch.randn(1, 800), torch.Generator().manual_seed(1)
    gates = GateSet(model, x, scope=scope)
    masks = {n: torch.rand(len(m), generator=generator) > 0.35 for n, m in gates.masks().items()}
    for mask in masks.values():
        mask[0] = True
    gates.load_masks(masks)
    SepPrunePruner(model, x, importance=SepPruneImportance(gates)).step()
    return model.eval()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    x = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(one(x), other(x))
    assert not one.training


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of Asteroid and huggingface_hub."""
    monkeypatch.setattr(hub_utils, "CACHE_DIR", str(tmp_path / "asteroid"))
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be connected to, and no name looked up."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(101, "Network is unreachable")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def into_hub_cache(cache: Path, name: str, file: str, made: Path, ref: str = "main") -> None:
    """Put a file where huggingface_hub puts it: blob, snapshot of a commit, reference to that."""
    folder = cache / repo_folder_name(repo_id=name, repo_type="model")
    for part in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    blob = folder / "blobs" / hashlib.sha256(made.read_bytes()).hexdigest()
    blob.write_bytes(made.read_bytes())
    (folder / "snapshots" / COMMIT / file).symlink_to(blob)
    (folder / "refs" / ref).write_text(COMMIT)


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


class TestFactories:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        (tmp_path / "own_models.py").write_text(
            "import torch\n"
            "def small(width=4):\n"
            "    return torch.nn.Sequential(torch.nn.Conv1d(1, int(width), 3, padding=1),\n"
            "                               torch.nn.Conv1d(int(width), 2, 3, padding=1))\n"
            "def broken():\n    raise KeyError('weights')\n"
            "def nothing():\n    return 3\n"
            "ready = small()\nnumber = 3\n"
        )
        monkeypatch.chdir(tmp_path)
        yield tmp_path
        sys.modules.pop("own_models", None)

    def test_function_argument_and_instance(self, folder: Path) -> None:
        before = list(sys.path)
        assert load_model("own_models:small")[0].out_channels == 4
        assert load_model("own_models:small:6")[0].out_channels == 6
        assert load_model("own_models:ready").training is False
        assert sys.path == before

    def test_a_file_of_ours_and_what_builds_it(self, folder: Path) -> None:
        model = load_model("own_models:small:6")
        pruned(model)
        path = save_pruned(model, folder / "small.safetensors")
        loaded = load_model(f"{path}@own_models:small")
        assert loaded[0].out_channels == model[0].out_channels < 6
        with pytest.raises(CheckpointError, match="FILE@module:function"):
            load_model(path)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("no_such_module:f", "no module 'no_such_module'.*PYTHONPATH"),
            ("own_models:f", "has no 'f'; it has broken, nothing, ready, small"),
            ("own_models:broken", r"KeyError: 'weights' \(.*own_models.py, line 6\)"),
            ("own_models:nothing", "gave a int, not a torch.nn.Module"),
            ("own_models:number", "cannot be called"),
        ],
    )
    def test_what_went_wrong(self, folder: Path, source: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_model(source)


class TestHubs:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        """What Asteroid publishes, and what we do."""
        torch.save(tasnet().serialize(), tmp_path / "made.bin")
        return tmp_path / "made.bin", save_pruned(pruned(tasnet()), tmp_path / "made.safetensors")

    @pytest.mark.parametrize("where", ["asteroid", "hf"])
    def test_cached_copies_need_no_network(
        self, cache: Path, files: tuple[Path, Path], where: str, no_network: None
    ) -> None:
        into_hub_cache(cache / where, "JorisCos/Net_8k", "pytorch_model.bin", files[0])
        into_hub_cache(cache / where, "we/small", "model.safetensors", files[1], "v1")
        assert_same(load_model("JorisCos/Net_8k"), tasnet())
        assert_same(load_model(f"JorisCos/Net_8k@{COMMIT}"), tasnet())
        assert_same(load_model("https://huggingface.co/JorisCos/Net_8k"), tasnet())
        assert_same(load_model("we/small@v1"), load_model(files[1]))
        with pytest.raises(CheckpointError, match="we/small is no file"):
            load_model("we/small")  # no main in the cache

    def test_offline_is_said(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE is set.*pytorch_model\.bin"):
            load_model("JorisCos/Net_8k")
        with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE is set.*zenodo|zenodo.*OFFLINE"):
            load_model(ZENODO)

    @pytest.mark.parametrize("name", ["JorisCos/Net_8k@v2", ZENODO, "https://x.org/model.pth"])
    def test_no_network_is_one_message_and_soon(
        self, cache: Path, no_network: None, name: str
    ) -> None:
        start = time.monotonic()
        with pytest.raises(CheckpointError, match="give that file") as raised:
            load_model(name)
        assert time.monotonic() - start < 10
        said = str(raised.value)
        assert "unreachable" in said and str(cache / "asteroid") in said
        assert name.partition("@")[0] in said
        assert not list(cache.rglob("*.tmp"))

    def test_zenodo_names_through_asteroids_cache(self, cache: Path, no_network: None) -> None:
        conf = tasnet().serialize()
        del conf["model_args"]["sample_rate"]
        url = hub_utils.MODELS_URLS_HASHTABLE[ZENODO]
        folder = cache / "asteroid" / hub_utils.url_to_filename(url)
        folder.mkdir(parents=True)
        torch.save(conf, folder / "model.pth")
        loaded = load_model(ZENODO)
        assert_same(loaded, tasnet())
        assert loaded.sample_rate == 8000

    def test_command_in_another_process(self, cache: Path, files: tuple[Path, Path]) -> None:
        """The variables that people set, a command, and Asteroid imported later than we are."""
        pytest.importorskip("typer")
        into_hub_cache(cache / "home" / "hub", "a/net", "pytorch_model.bin", files[0])
        environment = {**os.environ, "HF_HOME": str(cache / "home"), "HF_HUB_OFFLINE": "1"}
        environment |= {"ASTEROID_CACHE": str(cache / "none")}
        environment.pop("HF_HUB_CACHE", None)
        code = (
            "import sys, sepprune_tp\n"
            "from sepprune_tp.cli import main\n"
            "assert 'asteroid' not in sys.modules\n"
            "assert main(['profile', 'a/net', '--seconds', '0.1']) == 0\n"
            "from asteroid.models import BaseModel\n"
            f"print(BaseModel.from_pretrained({str(files[1])!r}).in_channels)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        assert "ConvTasNet" in run.stdout and run.stdout.endswith("\n1\n")

    def test_command_says_it_without_a_traceback(
        self, cache: Path, no_network: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("typer")
        from sepprune_tp.cli import main

        assert main(["profile", "a/other"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("Error: a/other is no file") and said.count("\n") == 1

    def test_names_and_files_are_told_apart(self, tmp_path: Path) -> None:
        assert is_hub_name("JorisCos/ConvTasNet_Libri2Mix_sepclean_8k@main") and is_hub_name(ZENODO)
        assert is_hub_name("mpariente/DPRNNTasNet(ks=16)_WHAM!_sepclean")
        for name in ("runs/best.pth", "./a/b", "../x", "/abs/x", "model", "a/b/c"):
            assert not is_hub_name(name)
        for name in ("runs/best.pth", "model", str(tmp_path)):
            with pytest.raises(CheckpointError, match=r"not a file|a folder"):
                load_model(name)


class Served(BaseHTTPRequestHandler):
    """A hub on this machine: one repository of Asteroid's, and files that are cut off."""

    content = b""
    asked: list[str] = []  # noqa: RUF012

    def answer(self, body: bool) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        if not self.path.endswith((".bin", "cut.pth")) or "/none/" in self.path:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if body:
            self.wfile.write(self.content[:99] if "cut" in self.path else self.content)

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    torch.save(tasnet().serialize(), tmp_path / "served.bin")
    Served.content, Served.asked = (tmp_path / "served.bin").read_bytes(), []
    with HTTPServer(("127.0.0.1", 0), Served) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_mirror_is_asked_once_and_then_the_cache(
    cache: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.constants, "ENDPOINT", server)
    monkeypatch.setattr(
        hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server + "/{repo_id}/resolve/{revision}/{filename}",
    )
    assert_same(load_model("a/net"), tasnet())
    assert "HEAD /a/net/resolve/main/model.safetensors" in Served.asked  # ours is looked for first
    assert (cache / "asteroid" / "models--a--net").is_dir()
    with pytest.raises(CheckpointError, match=r"a/none on .* has neither model\.safetensors"):
        load_model("a/none")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert_same(load_model("a/net"), tasnet())


def test_address(cache: Path, server: str) -> None:
    assert_same(load_model(f"{server}/x/y/z/model.bin"), tasnet())
    asked = len(Served.asked)
    assert_same(load_model(f"{server}/x/y/z/model.bin"), tasnet())
    assert len(Served.asked) == asked  # the second time from the cache
    with pytest.raises(CheckpointError, match="ended after 99"):
        load_model(f"{server}/x/y/cut.pth")
    assert not list(cache.rglob("*.tmp"))
