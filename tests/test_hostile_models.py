"""Files of models that lie, made by hand: refused soon, with nothing executed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("asteroid.models")
safetensors = pytest.importorskip("safetensors.torch")
from mutations import MARK, Evil  # noqa: E402
from small_tasnet import saved, tasnet  # noqa: E402

from sepprune_tp import save_pruned  # noqa: E402
from sepprune_tp.checkpoint import load_pruned, read_header  # noqa: E402
from sepprune_tp.errors import CheckpointError  # noqa: E402
from sepprune_tp.files.torch_archives import read_plain  # noqa: E402
from sepprune_tp.loading import load_model  # noqa: E402


def with_header(path: Path, **changes: Any) -> Path:
    """A file of ours that says something else of its model."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        strings, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    strings["header"] = json.dumps({**json.loads(strings["header"]), **changes})
    safetensors.save_file(tensors, path, metadata=strings)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_pruned(tasnet(), tmp_path / "small.safetensors")


def refusal(path: Path, **model: Any) -> str:
    """What is said, soon."""
    began = time.monotonic()
    with pytest.raises(CheckpointError) as raised:
        load_pruned(path, **model) if model else load_model(path)
    assert time.monotonic() - began < 5
    return str(raised.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_filters", 10**9),
        ("n_filters", 10**400),
        ("n_filters", float("inf")),
        ("kernel_size", 10**9),
        ("hid_chan", -(10**12)),
        ("n_blocks", 10**9),
        ("sample_rate", 1e30),
        ("fb_name", "__loader__"),
        ("norm_type", "_LayerNorm"),
        ("mask_act", "x" * 10_000),
        ("n_src", [[[[[[[[[[[[1]]]]]]]]]]]]),
    ],
)
def test_arguments_without_reason(file: Path, argument: str, value: Any) -> None:
    architecture = dict(read_header(file).architecture)
    architecture["args"] = {**architecture["args"], argument: value}
    said = refusal(with_header(file, architecture=architecture))
    assert "no reason" in said or "without end" in said


@pytest.mark.parametrize(
    "args",
    [
        {"n_blocks": 8000, "n_repeats": 8000},
        {"n_filters": 8000, "kernel_size": 8000},
        {"hid_chan": 8000, "bn_chan": 8000},
    ],
)
def test_arguments_that_multiply(file: Path, args: dict[str, int]) -> None:
    architecture = dict(read_header(file).architecture)
    architecture["args"] = {**architecture["args"], **args}
    said = refusal(with_header(file, architecture=architecture))
    assert "than the file's tensors account for" in said


@pytest.mark.parametrize(
    "name", ["System", "BaseModel.__init__", "os.system", "__builtins__", "ConvTasNet\0", ""]
)
def test_classes_that_are_not_asteroids_models(file: Path, name: str) -> None:
    architecture = {**read_header(file).architecture, "name": name}
    assert "no such model" in refusal(with_header(file, architecture=architecture))


@pytest.mark.parametrize(
    ("module", "key", "size"),
    [
        ("masker.TCN.0.res_conv", "out_channels", 10**12),
        ("masker.TCN.0.res_conv", "padding", [10**12]),
        ("masker.TCN.0.res_conv", "out_channels", -1),
        ("masker.TCN.0.res_conv", "groups", 0),
        ("masker.TCN.0.res_conv", "out_channels", "8"),
        ("masker.TCN.0.res_conv", "out_channels", 8.5),
        ("masker.TCN.0.res_conv", "_version", 1),
        ("masker.TCN.0.res_conv", "__class__", 1),
        ("masker.TCN.0.res_conv", "training", True),
        ("masker.TCN.0.res_conv", "forward", 1),
        ("masker.TCN.9.res_conv", "out_channels", 8),
        ("masker.TCN.0.res_conv", "out_channels", 9),
    ],
)
def test_sizes_without_reason(file: Path, module: str, key: str, size: Any) -> None:
    structure = dict(read_header(file).structure)
    structure[module] = {**structure.get(module, {}), key: size}
    refusal(with_header(file, structure=structure))


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": []},
        {"aliases": {"encoder.filterbank._filters": "no.such"}},
        {"aliases": {"encoder.filterbank._filters": 3}},
        {"aliases": ["x"]},
        {"frozen": 3},
        {"architecture": "ConvTasNet"},
        {"architecture": {"family": "asteroid", "name": ["ConvTasNet"], "args": {}}},
        {"architecture": {"family": "asteroid", "name": "ConvTasNet", "args": [1]}},
        {"versions": None},
        {"more": 1},
    ],
)
def test_headers_of_another_form(file: Path, changes: dict[str, Any]) -> None:
    refusal(with_header(file, **changes))


def rewritten(path: Path, change: Any) -> Path:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = change(json.loads(data[8 : 8 + size]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return path


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [10**12, 8, 1]},
        {"shape": [2**63, 2**63]},
        {"shape": [-1, 8]},
        {"shape": ["8", 12]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [8, 4]},
        {"data_offsets": [0, 384]},
        {"dtype": "F8_E4M3"},
        {"dtype": "I32"},
        {"dtype": "object"},
    ],
)
def test_tensors_that_lie(file: Path, entry: dict[str, Any]) -> None:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        name = "masker.TCN.1.res_conv.weight"
        return {**header, name: {**header[name], **entry}}

    refusal(rewritten(file, change))


def test_a_name_twice_and_a_header_without_end(file: Path) -> None:
    data = file.read_bytes()
    refusal(rewritten(file, lambda h: json.dumps(h).replace("gamma", "beta").encode()))
    file.write_bytes((2**40).to_bytes(8, "little") + data[8:])
    refusal(file)

    def deep(header: dict[str, Any]) -> dict[str, Any]:
        header["__metadata__"]["header"] = "[" * 100_000
        return header

    file.write_bytes(data)
    refusal(rewritten(file, deep))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.uint8])
def test_tensors_of_another_kind(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    path = save_pruned(model, tmp_path / "x.safetensors")
    with safetensors.safe_open(str(path), framework="pt") as file:
        strings, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    tensors["0.weight"] = torch.ones(3, 4).to(dtype)
    safetensors.save_file(tensors, path, metadata=strings)
    assert "is of the type" in refusal(path, model=nn.Sequential(nn.Linear(4, 3)))
    conf = tasnet().serialize()
    name = "masker.TCN.0.res_conv.weight"
    conf["state_dict"][name] = conf["state_dict"][name].to(dtype)
    path.write_bytes(saved(conf))
    assert "is of the type" in refusal(path)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(10**12),
        torch.ones(1).expand(30_000, 30_000),
        torch.empty(2, device="meta"),
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    ],
    ids=["terabytes", "gigabytes", "meta", "sparse", "quantised"],
)
def test_tensors_that_are_none(tmp_path: Path, tensor: torch.Tensor, new: bool) -> None:
    conf = tasnet().serialize()
    conf["state_dict"]["masker.TCN.0.res_conv.bias"] = tensor
    (tmp_path / "x.pth").write_bytes(saved(conf, new))
    refusal(tmp_path / "x.pth")


def repacked(data: bytes, packing: int, **records: bytes) -> bytes:
    found = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(found, "w", packing) as archive,
    ):
        for name in old.namelist():
            archive.writestr(name, records.get(name.rpartition("/")[2], old.read(name)))
    return found.getvalue()


def test_archives_that_are_bombs(tmp_path: Path) -> None:
    path, data = tmp_path / "x.pth", saved({"x": torch.zeros(30_000_000)})
    path.write_bytes(repacked(data, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 200_000
    assert "packed" in refusal(path)
    path.write_bytes(repacked(data, zipfile.ZIP_STORED))  # negative control
    assert read_plain(path)["x"].numel() == 30_000_000


def test_a_storage_that_is_said_to_be_larger_than_its_record(tmp_path: Path) -> None:
    path, data = tmp_path / "x.pth", saved(torch.ones(100))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        told = archive.read("archive/data.pkl")
    assert told.count(b"Kd") == 2
    path.write_bytes(
        repacked(data, zipfile.ZIP_STORED, **{"data.pkl": told.replace(b"Kd", b"M\xff\xff")})
    )
    assert "not as large as" in refusal(path)
    path.write_bytes(
        repacked(data, zipfile.ZIP_STORED, **{"data.pkl": told.replace(b"Kd", b"K\xff", 1)})
    )
    assert "not as large as" in refusal(path)


def test_paths_in_archives_lead_nowhere(tmp_path: Path) -> None:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name in ("../out", "/tmp/sepprune-out", "archive/../../out", "archive/data.pkl"):
            archive.writestr(name, pickle.dumps({}, 2))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.pth").write_bytes(found.getvalue())
    refusal(tmp_path / "in" / "x.pth")
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.pth"]


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
        b"ctorch\nload\n)R.",
        b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
        b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00hex\x86R.",
        b"csepprune_tp.errors\nrequire\n)R.",
        b"\x96\xff\xff\xff\xff\x00\x00\x00\x00.",
        b"Nr\xff\xff\xff\xff.",
        b"]q\x00h\x00a.",
        b"(K\x01K\x01tq\x00" + b"h\x00h\x00\x86q\x00" * 60 + b".",
        b"}(K\x01K\x01t" + b"q\x00h\x00h\x00\x86" * 60 + b"Ns.",
        b"]" * 5000 + b"a" * 4999 + b".",
        b"K\x01K\x02R.",
        b"N}b.",
        b".",
        b"",
    ],
)
def test_programs_in_place_of_data(tmp_path: Path, program: bytes) -> None:
    path, proto = tmp_path / "x.pth", b"\x80\x02"
    data = saved({"x": torch.ones(1)})
    path.write_bytes(repacked(data, zipfile.ZIP_STORED, **{"data.pkl": proto + program}))
    began = time.monotonic()
    try:
        content = read_plain(path)
    except CheckpointError:
        content = None
    assert content is None and time.monotonic() - began < 5
    path.write_bytes(proto + program)
    refusal(path)


def test_legacy_storages_that_claim_memory(tmp_path: Path) -> None:
    data = saved([torch.ones(100)], new=False)
    at = data.index(b"cpuq") + 5
    assert data[at : at + 2] == b"Kd"
    claimed = data[:at] + b"J" + struct.pack("<i", 2**31 - 1) + data[at + 2 :]
    (tmp_path / "x.pth").write_bytes(claimed)
    assert "larger than the file" in refusal(tmp_path / "x.pth")


def test_a_list_that_is_endless_to_print(tmp_path: Path) -> None:
    from mutations import laughs

    for key in ("model_name", "model_args", "state_dict"):
        conf = {**tasnet().serialize(), key: laughs()}
        (tmp_path / "x.pth").write_bytes(saved(conf))
        assert "beyond measure" in refusal(tmp_path / "x.pth")


def test_evil_runs_where_it_is_allowed_to() -> None:
    """The negative control of all that looks for what was executed."""
    assert not MARK.exists()
    torch.load(io.BytesIO(saved(Evil())), weights_only=False)
    assert MARK.exists()
    MARK.rmdir()


def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    kinds += (torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128)
    tensors = [torch.arange(6).to(kind).view(2, 3) for kind in kinds]
    tensors += [torch.randn(4, 5).t(), torch.randn(9)[3:5], torch.empty(0, 3), torch.tensor(2.0)]
    tensors += [torch.ones(1).expand(4), nn.Parameter(torch.ones(2))]
    for new in (True, False):
        (tmp_path / "x").write_bytes(saved({"tensors": tensors, "s": tasnet().state_dict()}, new))
        read = read_plain(tmp_path / "x")
        expected = torch.load(tmp_path / "x", weights_only=True)
        for one, other in zip(read["tensors"], expected["tensors"], strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype
            assert one.requires_grad == other.requires_grad and type(one) is type(other)
        assert read["s"]._metadata == expected["s"]._metadata
        tied = partial(torch.Tensor.data_ptr)
        both = saved([tensors[0], tensors[0][:1]], new)
        (tmp_path / "x").write_bytes(both)
        one, other = read_plain(tmp_path / "x")
        assert tied(one) == tied(other)
