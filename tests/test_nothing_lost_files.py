"""What cannot be written is one error of ours; the old file stays, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")
from sepprune_tp import Budget, GateSet, learn_gates, save_pruned
from sepprune_tp.errors import CheckpointError, SepPruneError, WriteError
from sepprune_tp.exporting import export_model
from sepprune_tp.files import check_writable, write_tensors, write_text, written
from sepprune_tp.reporting.files import write_json

Write = Callable[[Path], Any]


def net(size: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(size, size), nn.Linear(size, size))


def save(path: Path) -> Any:
    return save_pruned(net(256), path)


WRITERS: dict[str, Write] = {
    "model": save,
    "text": lambda path: write_text(path, "x" * 500_000),
    "json": lambda path: write_json(path, ["x" * 500_000]),
    "tensors": lambda path: write_tensors(path, {"w": torch.zeros(200_000)}),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("needs to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", WRITERS)
def test_full_disk(tiny: Path, kind: str) -> None:
    path = tiny / "file"
    path.write_bytes(b"old")
    with pytest.raises(WriteError, match=r"Cannot write .*the disk is full.*stays as it was"):
        WRITERS[kind](path)
    assert path.read_bytes() == b"old" and names(tiny) == ["file"]
    write_text(path, "small")  # there is room again
    assert path.read_bytes() == b"small"


def test_full_disk_for_libraries_that_write_by_themselves(tiny: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(20, 20))
    figure.add_subplot().imshow(torch.rand(900, 900), interpolation="nearest")
    writes: list[Callable[[Path], Any]] = [
        lambda path: soundfile.write(path, torch.randn(200_000).numpy(), 8000, format="WAV"),
        lambda path: figure.savefig(path, format="png"),
    ]
    for write in writes:
        with pytest.raises(WriteError, match="the disk is full"), written(tiny / "file") as scratch:
            write(scratch)
        assert not names(tiny)


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_full_disk_during_an_export(tiny: Path, format: str) -> None:
    """torch's own writer of TorchScript ends the process there."""
    if format == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 200, 99), nn.Conv1d(200, 2, 99))
    with pytest.raises(WriteError, match="the disk is full"):
        export_model(model.eval(), torch.randn(1, 400), tiny / "model", format)
    assert not names(tiny)


def test_full_disk_during_a_search(tiny: Path) -> None:
    layers = (nn.Conv1d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 2, 9, padding=4))
    model = nn.Sequential(nn.Unflatten(1, (1, 64)), *layers)
    (tiny / "filler").write_bytes(bytes(60_000))
    batches = [(torch.randn(1, 64), torch.randn(1, 2, 64))]
    gates = GateSet(model, batches[0][0], "all")
    given: dict[str, Any] = {"budget": Budget(macs=0.5), "steps": 4, "progress": False}
    with pytest.raises(WriteError, match="the disk is full"):
        learn_gates(gates, batches, checkpoint=tiny / "s", checkpoint_every=1, **given)
    assert names(tiny) == ["filler"]


@pytest.mark.parametrize("kind", WRITERS)
def test_read_only_file_system(tiny: Path, kind: str) -> None:
    path = tiny / "file"
    path.write_bytes(b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    with pytest.raises(WriteError, match="read-only"):
        WRITERS[kind](path)
    assert path.read_bytes() == b"old" and names(tiny) == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_impossible_places(tmp_path: Path, kind: str) -> None:
    write = WRITERS[kind]
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    places = {
        tmp_path / "folder": "is a folder",
        tmp_path / "file" / "model": "a part of its path is a file|folder does not exist",
        tmp_path / "none" / "model": "folder does not exist",
        tmp_path / ("n" * 300): "too long",
    }
    for path, text in places.items():
        with pytest.raises(WriteError, match=text):
            write(path)
    assert names(tmp_path) == ["file", "folder"] and not names(tmp_path / "folder")


def test_half_written_files_of_killed_processes_are_swept(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    dead, alive = int(done.stdout), os.getppid()
    (tmp_path / f".model.{dead}-abc.tmp").write_bytes(b"half")
    (tmp_path / f".model.{alive}-abc.tmp").write_bytes(b"of another that writes")
    (tmp_path / f".other.{dead}-abc.tmp").write_bytes(b"of another file")
    save(tmp_path / "model")
    assert names(tmp_path) == sorted([f".model.{alive}-abc.tmp", f".other.{dead}-abc.tmp", "model"])


def test_errors_of_other_things_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for error in (KeyError("x"), OSError("the server hung up"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, written(path) as scratch:
            scratch.write_text("half")
            raise error
        assert caught.value is error and not names(tmp_path)
    with pytest.raises(FileNotFoundError), written(path):
        Path("/nowhere/at/all").read_bytes()  # not of what is being written
    with pytest.raises(SepPruneError, match="ours"), written(path):
        raise CheckpointError("ours")
    assert not names(tmp_path)


def test_permissions_of_the_old_file_stay(tmp_path: Path) -> None:
    path = write_text(tmp_path / "file", "one")
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(0o640)
    write_text(path, "two")
    assert path.stat().st_mode & 0o777 == 0o640


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_check_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "model")
    assert names(tmp_path / "new") == []
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="part of its path is a file"):
        check_writable(tmp_path / "file" / "model")
    with pytest.raises(WriteError, match="is a folder"):
        check_writable(tmp_path)


def test_the_error_is_also_the_builtin(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is a folder") as caught:
        write_text(tmp_path, "x")
    assert isinstance(caught.value, CheckpointError)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EISDIR


def test_no_writer_does_without() -> None:
    """Temporary names and renames are one module's business."""
    package = Path(__file__).parent.parent / "sepprune_tp"
    words = ("os.replace(", "mkstemp(", ".write_text(", ".write_bytes(", "save_file(")
    # launching.py: in a folder of its own for its processes; formats.py: to the name it is given
    allowed = {"writing.py", "launching.py", "formats.py"}
    found = [
        f"{path.relative_to(package)}: {word}"
        for path in package.rglob("*.py")
        for word in words
        if path.name not in allowed and word in path.read_text()
    ]
    assert not found
