"""Publishing: the folder, the card and its table, the upload, and what stands in the way."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

models = pytest.importorskip("asteroid.models")
huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")
yaml = pytest.importorskip("yaml")

from sepprune_tp import load_pruned, save_pruned  # noqa: E402
from sepprune_tp.checkpoint import read_header  # noqa: E402
from sepprune_tp.errors import CheckpointError, InputError  # noqa: E402
from sepprune_tp.hub import publish, write_repository  # noqa: E402


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: nn.Module = models.ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=12, skip_chan=8, n_blocks=2, n_repeats=1
        )
    return net.eval()


@pytest.fixture
def report(model: nn.Module) -> dict[str, Any]:
    params = sum(p.numel() for p in model.parameters())
    costs = {"params": params, "macs": 1_000_000, "latency_ms": 5.0, "rtf": 0.005}
    dense = {"params": 2 * params, "macs": 2_000_000, "latency_ms": 10.0, "rtf": 0.01}
    return {
        "dense": {**dense, "si_sdri": 8.4, "sdri": 8.9},
        "pruned": {**costs, "si_sdri": 6.5, "sdri": 7.0},
        "recovered": {**costs, "si_sdri": 7.7, "sdri": 8.0},
    }


def front_of(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(front)
    return loaded


def test_the_folder_holds_all_that_a_repository_needs(
    model: nn.Module, report: dict[str, Any], tmp_path: Path
) -> None:
    path = save_pruned(model, tmp_path / "small.safetensors", metadata={"date": "2026-01-01"})
    (tmp_path / "report.json").write_text(json.dumps(report))
    out = write_repository(
        path,
        tmp_path / "out",
        "me/small-net",
        report=tmp_path / "report.json",
        license="cc-by-sa-4.0",
        base_model="mpariente/ConvTasNet_WHAM_sepclean",
        dataset="wham",
    )
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "README.md", "report.json"}
    assert (out / "model.safetensors").read_bytes() == path.read_bytes()
    text = (out / "README.md").read_text()
    front = front_of(text)
    assert front["license"] == "cc-by-sa-4.0" and front["datasets"] == ["wham"]
    assert {"asteroid", "ConvTasNet", "pruning"} <= set(front["tags"])
    assert front["base_model"] == "mpariente/ConvTasNet_WHAM_sepclean"
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0].split(" | ")[1:4] == ["Parameters", "MACs (M)", "SI-SDRi (dB)"]
    assert rows[3].startswith("| pruned |") and "1.0 (50%) | 6.50" in rows[3]
    assert "| 7.70 | 8.00 | 5.0 (50%) | 0.0050 |" in rows[4]
    assert 'load_model("me/small-net")' in text and "date: 2026-01-01" in text
    # The hub's own reader takes the card.
    card = huggingface_hub.ModelCard(text)
    assert card.data.library_name == "sepprune-tp"


def test_the_card_loads_the_model_as_it_says(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its three lines run, once the folder is on a hub (here: in the cache)."""
    from asteroid.utils import hub_utils

    out = write_repository(model, tmp_path / "out", "me/net")
    snapshot = tmp_path / "hf" / "models--me--net" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    out.rename(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(hub_utils, "CACHE_DIR", str(tmp_path / "asteroid"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines = (snapshot / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {"mixture": torch.randn(1, 800)}
    exec(lines, scope)
    assert scope["sources"].shape == (1, 2, 800)


def test_without_a_report_the_file_tells(model: nn.Module, tmp_path: Path) -> None:
    params = sum(p.numel() for p in model.parameters())
    metadata = {"dense": {"params": 2 * params, "macs": 10**6}, "settings": {"steps": 5}}
    metadata["pruned"] = {"params": params, "macs": 5 * 10**5}
    path = save_pruned(model, tmp_path / "m.safetensors", metadata=metadata)
    text = (write_repository(path, tmp_path / "a", "me/net") / "README.md").read_text()
    assert "(50%)" in text and "SI-SDRi" not in text and "settings: steps 5" in text
    bare = (write_repository(model, tmp_path / "b", "me/net") / "README.md").read_text()
    assert "| dense" not in bare and "load_model" in bare and "license" not in front_of(bare)


def test_a_member_of_a_family(model: nn.Module, tmp_path: Path, report: dict[str, Any]) -> None:
    members = [{"file": "m-0.5.safetensors", **report["pruned"], "si_sdri": 3.21}]
    members.append({"file": "m-0.7.safetensors", **report["pruned"], "si_sdri": 4.56})
    family = {"dense": report["dense"], "members": members}
    path = save_pruned(model, tmp_path / "m-0.7.safetensors")
    text = (
        write_repository(path, tmp_path / "a", "me/net", report=family) / "README.md"
    ).read_text()
    assert "4.56" in text and "3.21" not in text


def test_a_model_of_another_class(tmp_path: Path) -> None:
    text = (write_repository(nn.Linear(2, 2), tmp_path / "a", "me/net") / "README.md").read_text()
    assert (
        "load_pruned(file, model=Linear(...))" in text and "asteroid" not in front_of(text)["tags"]
    )


def test_reports_and_names_that_do_not_fit(
    model: nn.Module, report: dict[str, Any], tmp_path: Path
) -> None:
    path = save_pruned(model, tmp_path / "m.safetensors")
    other = json.loads(json.dumps(report))
    other["pruned"]["params"] = other["recovered"]["params"] = 7
    members = {"dense": {}, "members": [{"file": "x.safetensors", "params": 7}]}
    for wrong, message in (
        (other, "of another model"),
        ({"dense": report["dense"]}, "neither 'pruned'"),
        (members, "is of x.safetensors"),
        (tmp_path / "none.json", "cannot be read"),
        (path, "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            write_repository(path, tmp_path / "out", "me/net", report=wrong)
    for name in ("net", "me/", "me/a b", "me/a/b", "../net"):
        with pytest.raises(InputError, match="is no name of a repository"):
            write_repository(path, tmp_path / "out", name)
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04" + b"0" * 40)
    with pytest.raises(CheckpointError, match="use load_model"):
        write_repository(tmp_path / "x.pth", tmp_path / "out", "me/net")
    assert not (tmp_path / "out").exists()


class FakeApi:
    """Remembers what it is asked for, and looks at what is uploaded."""

    calls: list[tuple[str, Any]] = []  # noqa: RUF012

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create", (repo_id, options)))

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> None:
        names = sorted(p.name for p in Path(folder_path).iterdir())
        load_pruned(Path(folder_path) / "model.safetensors")
        self.calls.append(("upload", (repo_id, names)))


def test_upload(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    FakeApi.calls.clear()
    assert publish(model, "me/net", private=True).endswith("/me/net")
    assert FakeApi.calls == [
        ("create", ("me/net", {"private": True, "exist_ok": True})),
        ("upload", ("me/net", ["README.md", "model.safetensors"])),
    ]


def test_no_network_is_one_message_and_soon(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(101, "Network is unreachable")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"not published: .*unreachable.*dry_run=True"):
        publish(model, "me/net", folder=tmp_path / "kept")
    assert time.monotonic() - start < 10
    assert (tmp_path / "kept" / "README.md").is_file()


def test_refusals(model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Refusing(FakeApi):
        def create_repo(self, repo_id: str, **options: Any) -> None:
            error = RuntimeError("Invalid username or password.")
            error.response = type("Response", (), {"status_code": 401})()  # type: ignore[attr-defined]
            raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", Refusing)
    with pytest.raises(CheckpointError, match=r"Invalid username.*write to me: hf auth login"):
        publish(model, "me/net")
    with pytest.raises(InputError, match="pass folder="):
        publish(model, "me/net", dry_run=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        publish(model, "me/net")
    assert publish(model, "me/net", dry_run=True, folder=tmp_path / "a") == str(tmp_path / "a")


def test_command(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]
) -> None:
    pytest.importorskip("typer")
    from sepprune_tp.cli import main

    monkeypatch.chdir(tmp_path)
    save_pruned(model, tmp_path / "m.safetensors")
    (tmp_path / "report.json").write_text(json.dumps(report))
    options = ["--report", "report.json", "--license", "mit", "--dry-run"]
    assert main(["publish", "m.safetensors", "me/net", *options]) == 0
    assert front_of((tmp_path / "net" / "README.md").read_text())["license"] == "mit"
    assert read_header(tmp_path / "net" / "model.safetensors").architecture["name"] == "ConvTasNet"
    assert main(["publish", "none.safetensors", "me/net", "--dry-run"]) == 2
