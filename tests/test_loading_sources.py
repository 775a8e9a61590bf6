"""Models wherever they are: functions, hubs, addresses; with the network refused."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("asteroid.models")
hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")
from asteroid.utils import hub_utils  # noqa: E402
from huggingface_hub.file_download import repo_folder_name  # noqa: E402
from small_tasnet import assert_same, pruned, tasnet  # noqa: E402

from sepprune_tp import save_pruned  # noqa: E402
from sepprune_tp.errors import CheckpointError, InputError  # noqa: E402
from sepprune_tp.loading import load_model  # noqa: E402
from sepprune_tp.loading.fetching import is_hub_name  # noqa: E402

ZENODO = "mpariente/ConvTasNet_WHAM!_sepclean"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
