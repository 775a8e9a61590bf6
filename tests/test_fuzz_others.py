"""Smaller files: measured times, cached speech, reports, configurations of benchmarks."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

models = pytest.importorskip("asteroid.models")
pytest.importorskip("yaml")
pytest.importorskip("huggingface_hub")
from fuzzing import COUNTS, Reader, check  # noqa: E402
from mutations import archive_changed, json_changed, text_changed  # noqa: E402

from benchmarks.harness import config  # noqa: E402
from sepprune_tp import save_pruned  # noqa: E402
from sepprune_tp.commands.config import Flag, read_config  # noqa: E402
from sepprune_tp.demo.synthesis import load_or_synthesise  # noqa: E402
from sepprune_tp.demo.voices import TEST_VOICES  # noqa: E402
from sepprune_tp.errors import DataError, InputError  # noqa: E402
from sepprune_tp.hub import write_repository  # noqa: E402
from sepprune_tp.measure.timing.cache import TimeCache  # noqa: E402

VOICES = TEST_VOICES[:2]


def times(folder: Path) -> Reader:
    path = TimeCache("this machine", folder).path
    assert path is not None
    kept = {f"conv {n}": n * 1e-4 for n in range(1, 30)}

    def read(path: Path) -> int:
        cache = TimeCache("this machine", path.parent)
        found = [cache.get(key) for key in kept]
        values = [value for value in found if value is not None]
        assert all(isinstance(v, float) and math.isfinite(v) and v > 0 for v in values)
        if not values:
            raise DataError("measured anew")
        return path.stat().st_size

    content = json.dumps({"machine": "this machine", "seconds": kept}).encode()
    return Reader("measured times", [content], read, json_changed, (b"{",), file=path.name)


def speech(folder: Path) -> Reader:
    """What keeps synthesised speech; nothing is synthesised here."""

    def noise(*args: object) -> dict[str, list[np.ndarray]]:
        return {voice.variant: [np.zeros(300, np.float32)] * 2 for voice in VOICES}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sepprune_tp.demo.synthesis.synthesise_corpus", noise)
        load_or_synthesise(folder, VOICES, 2, 0)
    (path,) = folder.glob("*.npz")

    def read(path: Path) -> int:
        corpus = load_or_synthesise(path.parent, VOICES, 2, 0)
        assert [len(spoken) for spoken in corpus.values()] == [2, 2]
        return sum(one.nbytes for spoken in corpus.values() for one in spoken)

    return Reader(
        "cached speech",
        [path.read_bytes()],
        read,
        archive_changed,
        (b"PK\x03\x04",),
        file=path.name,
    )


def report(folder: Path) -> Reader:
    model = models.ConvTasNet(n_src=2, n_filters=16, bn_chan=8, hid_chan=8, n_blocks=1, n_repeats=1)
    file = save_pruned(model, folder / "small.safetensors")
    figures = {"params": sum(p.numel() for p in model.parameters()), "macs": 10**6, "rtf": 0.01}
    dense = {**figures, "params": 10**5, "si_sdri": 8.5}
    told = {"dense": dense, "pruned": figures, "machine": "x", "settings": {"steps": 5}}
    family = {"dense": dense, "members": [{"file": "small.safetensors", **figures}]}

    def read(path: Path) -> int:
        with tempfile.TemporaryDirectory() as out:
            write_repository(file, out, "me/small", report=path)
            return sum(one.stat().st_size for one in Path(out).iterdir())

    return Reader(
        "report of a model to publish",
        [json.dumps(one).encode() for one in (told, family)],
        read,
        json_changed,
        (b"{",),
    )


def experiment(folder: Path) -> Reader:
    files = sorted(config.FOLDER.rglob("*.yaml"), key=os.path.getsize)

    def read(path: Path) -> int:
        made = config.read(path)
        return len(made.models) + len(made.criteria) + len(made.recoveries)

    return Reader(
        "experiment of the benchmarks",
        [path.read_bytes() for path in files[:4]],
        read,
        text_changed,
        (b"kind: ", b"%YAML", b"- "),
        own=(config.ConfigError,),
    )


OPTIONS = b"""steps: 300
lr: 1e-3
report: true
budgets: [0.25, 0.5]
files: [one.wav, two.wav]
prune:
  budget-macs: 0.5
"""
RECIPE = b"""filterbank: {n_filters: 64, kernel_size: 16, stride: 8}
masknet:
  n_blocks: 8
training:
  epochs: 200
  batch_size: 8
optim: {optimizer: adam, lr: 0.001, weight_decay: 0.}
data:
  train_dir: data/tr
  valid_dir: data/cv
  task: sep_clean
  sample_rate: 8000
  n_src: 2
  segment: 3
"""


def options(folder: Path) -> Reader:
    kinds = {"steps": int, "lr": float, "report": bool, "budgets": str, "budget_macs": str}
    kinds |= {"data": Path, "batch_size": int, "sample_rate": int, "seconds": float, "mix": str}
    flags = {name: Flag(name, kind) for name, kind in kinds.items()}
    flags["files"] = Flag("files", Path, many=True)

    def read(path: Path) -> int:
        found = read_config(path, "prune", flags, {"prune": list(flags), "finetune": ["steps"]})
        told = [str(value) for value in found.values.values()]
        return sum(map(len, (*told, *found.notes)))

    return Reader(
        "options of a command",
        [OPTIONS, RECIPE],
        read,
        text_changed,
        (b"steps: ", b"%YAML", b"data: "),
        own=(InputError,),
    )


MAKERS = {
    "times": times,
    "speech": speech,
    "report": report,
    "experiment": experiment,
    "options": options,
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.timeout(1800)
def test_readers_keep_the_law(name: str, count: int, tmp_path: Path) -> None:
    for folder in ("made", "read"):
        (tmp_path / folder).mkdir()
    check(MAKERS[name](tmp_path / "made"), tmp_path / "read", count)


@pytest.mark.parametrize(
    "text",
    [
        '{"machine": "m", "seconds": {"k": NaN}}',
        '{"machine": "m", "seconds": {"k": "1"}}',
        '{"machine": "m", "seconds": {"k": -1.0}}',
        '{"machine": "m", "seconds": {"k": 1' + "0" * 400 + "}}",
        '{"machine": "m", "seconds": {"k": true}}',
        '{"machine": "m", "seconds": [["k", 1.0]]}',
        '{"machine": "m", "seconds": ' + "[" * 100_000,
        "[]",
    ],
)
def test_times_that_are_none(tmp_path: Path, text: str) -> None:
    path = TimeCache("m", tmp_path).path
    assert path is not None
    path.write_text(text)
    assert TimeCache("m", tmp_path).get("k") is None
    path.write_text('{"machine": "m", "seconds": {"k": 0.5}}')  # negative control
    assert TimeCache("m", tmp_path).get("k") == 0.5


def array(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize("shape", ["(10000000000000,)", "(4294967296, 4)", "(-4,)", "x", "()"])
def test_speech_that_claims_memory(tmp_path: Path, shape: str) -> None:
    import zipfile

    name = speech(tmp_path).file
    told = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("samples.npy", array(told))
        archive.writestr("lengths.npy", array(told))
    (tmp_path / name).write_bytes(file.getvalue())
    with pytest.raises(DataError, match="Delete it to make it anew") as raised:
        load_or_synthesise(tmp_path, VOICES, 2, 0)
    assert not isinstance(raised.value.__cause__, MemoryError)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "!!python/object/apply:os.system [true]",
        "kind: !!bool x",
        "kind: 2020-99-99",
        "kind: 0b_",
        "{a: " * 5000,
        "a: &a [x,x,x]\nb: &b [*a,*a,*a]\n" * 2 + "c: [*b, *b]",
        "? [1]\n: x",
        "kind: [",
        "\0",
    ],
)
def test_configurations_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(config.ConfigError):
        config.read(tmp_path / "x.yaml")
    with pytest.raises(InputError):
        read_config(tmp_path / "x.yaml", "prune", {"steps": Flag("steps", int)})


@pytest.mark.parametrize(
    "told",
    [
        {"pruned": {"params": "many"}},
        {"dense": {}, "members": 3},
        {"dense": {}, "members": [{"file": ["x"], "params": {}}]},
        {"pruned": {"params": [1]}},
    ],
)
def test_reports_that_are_none(tmp_path: Path, told: dict[str, object]) -> None:
    reader = report(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(told))
    with pytest.raises(InputError):
        reader.read(tmp_path / "report.json")
