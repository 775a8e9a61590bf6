"""Pruned models on disk: the same output in a fresh process, and clear errors for other files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_pruning as tp
from torch import nn

from sepprune_tp.checkpoint import FORMAT_VERSION, load_pruned, read_header, save_pruned
from sepprune_tp.errors import CheckpointError, InputError
from sepprune_tp.loading import load_model

safetensors_torch = pytest.importorskip("safetensors.torch")
ROOT = Path(__file__).parents[1]


class SmallNet(nn.Module):
    """Conv, norm, recurrence, tied weights and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Conv1d(8, 6, 3, padding=1)
        self.rnn = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(10, 4)
        self.tied = nn.Linear(10, 4)
        self.tied.weight = self.last.weight
        self.register_buffer("scale", torch.rand(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(torch.relu(self.norm(self.first(x))))
        y, _ = self.rnn(y.transpose(1, 2))
        return (self.last(y) + self.tied(y)) * self.scale


def pruned_net(seed: int = 0) -> SmallNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallNet()
        net.norm.running_mean.uniform_()
    tp.prune_conv_out_channels(net.first, [1, 4, 5])
    tp.prune_batchnorm_out_channels(net.norm, [1, 4, 5])
    tp.prune_conv_in_channels(net.second, [1, 4, 5])
    return net.eval()


def narrow_block(model: nn.Module, index: int, drop: list[int]) -> None:
    """Drop hidden channels of one block of Asteroid's Conv-TasNet by hand."""
    block = model.masker.TCN[index]
    first, _, norm, depth, _, norm2 = block.shared_block
    tp.prune_conv_out_channels(first, drop)
    tp.prune_depthwise_conv_out_channels(depth, drop)
    for layer in (norm, norm2):
        keep = [i for i in range(len(layer.gamma)) if i not in drop]
        layer.gamma = nn.Parameter(layer.gamma.data[keep])
        layer.beta = nn.Parameter(layer.beta.data[keep])
        if hasattr(layer, "channel_size"):
            layer.channel_size = len(keep)
    tp.prune_conv_in_channels(block.res_conv, drop)
    if block.skip_conv:
        tp.prune_conv_in_channels(block.skip_conv, drop)


def small_tasnet() -> nn.Module:
    models = pytest.importorskip("asteroid.models")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return models.ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=12, skip_chan=8, n_blocks=2, n_repeats=2
        ).eval()


def test_plain_module_round_trip(tmp_path: Path) -> None:
    net, x = pruned_net(), torch.randn(2, 1, 30)
    net.last.bias.requires_grad_(False)
    path = save_pruned(net, tmp_path / "net.safetensors", metadata={"si_sdri": 5.5})
    fresh = SmallNet().train()
    loaded = load_pruned(path, model=fresh)
    assert loaded is fresh and not loaded.training
    assert torch.equal(loaded(x), net(x))
    assert (loaded.first.out_channels, loaded.norm.num_features, loaded.second.in_channels) == (
        5,
        5,
        5,
    )
    assert loaded.tied.weight is loaded.last.weight
    assert not loaded.last.bias.requires_grad and loaded.last.weight.requires_grad
    assert read_header(path).metadata == {"si_sdri": 5.5}
    # Negative control: another net of the same shapes gives another output.
    assert not torch.equal(pruned_net(1)(x), net(x))


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    path = save_pruned(pruned_net(), tmp_path / "net.safetensors")
    stored = safetensors_torch.load_file(path)
    assert "last.weight" in stored and "tied.weight" not in stored
    assert read_header(path).aliases == {"tied.weight": "last.weight"}


def test_loaded_recurrence_still_trains(tmp_path: Path) -> None:
    net = pruned_net()
    path = save_pruned(net, tmp_path / "net.safetensors")
    loaded = load_pruned(path, model=SmallNet()).train()
    loaded(torch.randn(2, 1, 30)).sum().backward()
    gradients = {name: p.grad for name, p in loaded.named_parameters()}
    assert all(g is not None for g in gradients.values())
    before = loaded(torch.ones(1, 1, 9))
    with torch.no_grad():
        loaded.rnn.weight_hh_l1_reverse.add_(1.0)
    assert not torch.equal(before, loaded(torch.ones(1, 1, 9)))  # no stale list of weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).to(dtype)
    path = save_pruned(net, tmp_path / "net.safetensors")
    loaded = load_pruned(path, model=nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)))
    assert all(p.dtype == dtype for p in loaded.parameters())


FRESH = """
import hashlib, pickle, sys, torch
def refuse(*args, **kwargs):
    raise RuntimeError("pickle was used")
pickle.Unpickler = pickle.load = pickle.loads = torch.load = refuse
from sepprune_tp.checkpoint import load_pruned
torch.set_num_threads(int(sys.argv[1]))
x = torch.sin(torch.arange(1600.0)).view(1, 1600)
for path in sys.argv[2:]:
    with torch.no_grad():
        print(hashlib.sha256(load_pruned(path)(x).numpy().tobytes()).hexdigest())
"""
ARCHITECTURES = [
    ("ConvTasNet", {"n_filters": 16, "bn_chan": 8, "hid_chan": 12, "n_blocks": 2}),
    ("DPRNNTasNet", {"n_filters": 16, "bn_chan": 8, "hid_size": 8, "n_repeats": 2}),
    ("SuDORMRFNet", {"n_filters": 16, "bn_chan": 8, "num_blocks": 2}),
    ("SuDORMRFImprovedNet", {"n_filters": 16, "bn_chan": 8, "num_blocks": 2}),
    ("LSTMTasNet", {"n_filters": 16, "hid_size": 8, "n_layers": 2}),
]


def test_pruned_models_give_the_same_bits_in_a_fresh_process(tmp_path: Path) -> None:
    models = pytest.importorskip("asteroid.models")
    from small_tasnet import pruned

    x = torch.sin(torch.arange(1600.0)).view(1, 1600)
    paths, expected = [], []
    for name, args in ARCHITECTURES:
        for scope in ("separator", "all"):
            dense = getattr(models, name)(n_src=2, **args).eval()
            with torch.no_grad():
                before = dense(x)
            model = pruned(dense, scope, seed=len(paths))
            with torch.no_grad():
                after = model(x)
            assert not torch.allclose(after, before)  # negative control
            expected.append(hashlib.sha256(after.numpy().tobytes()).hexdigest())
            paths.append(save_pruned(model, tmp_path / f"{name}_{scope}.safetensors"))
            again = load_pruned(paths[-1])
            assert again.get_model_args() == model.get_model_args()
            assert repr(again) == repr(model)
    command = [sys.executable, "-c", FRESH, str(torch.get_num_threads()), *map(str, paths)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == expected


def test_widths_that_differ_by_block(tmp_path: Path) -> None:
    model = small_tasnet()
    narrow_block(model, 1, [0, 3, 7])
    model.masker.hid_chan = [12, 9, 12, 12]  # as pruning leaves it; no constructor takes a list
    loaded = load_pruned(save_pruned(model, tmp_path / "tasnet.safetensors"))
    assert loaded.get_model_args()["hid_chan"] == [12, 9, 12, 12]
    assert loaded.masker.TCN[1].res_conv.in_channels == 9
    with torch.no_grad():
        x = torch.randn(1, 800)
        assert torch.equal(loaded(x), model(x))


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    path = save_pruned(small_tasnet(), tmp_path / "tasnet.safetensors")
    state = torch.get_rng_state()
    load_pruned(path)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("name", "args"), ARCHITECTURES)
def test_dense_models_load_too(tmp_path: Path, name: str, args: dict[str, int]) -> None:
    models = pytest.importorskip("asteroid.models")
    model = getattr(models, name)(n_src=2, **args).eval()
    x = torch.randn(1, 1600)
    path = save_pruned(model, tmp_path / "model.safetensors")
    for loaded in (load_pruned(path), load_model(path)):
        assert type(loaded) is type(model)
        with torch.no_grad():
            assert torch.equal(loaded(x), model(x))


def test_asteroid_serialize_is_read_without_free_pickle(tmp_path: Path) -> None:
    model, x = small_tasnet(), torch.randn(1, 800)
    torch.save(model.serialize(), tmp_path / "asteroid.pth")
    loaded = load_model(tmp_path / "asteroid.pth")
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    torch.save({"model_name": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="Python objects"):
        load_model(tmp_path / "evil.pth")
    assert not marker.exists()


def test_training_checkpoint_says_what_lacks(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"lacks model_name, model_args.*state_dict"):
        load_model(tmp_path / "last.ckpt")


def test_plain_module_needs_an_instance(tmp_path: Path) -> None:
    path = save_pruned(pruned_net(), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"SmallNet, which is not an Asteroid.*model="):
        load_pruned(path)


def test_another_module_tree_is_refused_untouched(tmp_path: Path) -> None:
    path = save_pruned(pruned_net(), tmp_path / "net.safetensors")
    other = nn.Sequential(nn.Linear(3, 3))
    before = other[0].weight
    with pytest.raises(CheckpointError, match=r"model lacks first\.bias.*file lacks 0\.bias"):
        load_pruned(path, model=other)
    assert other[0].weight is before


def rewrite(path: Path, **strings: str) -> None:
    """Write a file again with other strings in its header."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **strings}
    safetensors_torch.save_file(safetensors_torch.load_file(path), path, metadata=metadata)


def test_newer_version_says_upgrade(tmp_path: Path) -> None:
    path = save_pruned(pruned_net(), tmp_path / "net.safetensors")
    rewrite(path, format_version=str(FORMAT_VERSION + 1))
    with pytest.raises(CheckpointError, match=r"format version 2.*Upgrade: pip install -U"):
        load_pruned(path, model=SmallNet())


def test_size_that_the_class_lacks_is_refused(tmp_path: Path) -> None:
    path = save_pruned(pruned_net(), tmp_path / "net.safetensors")
    header = json.loads(json.dumps(read_header(path).__dict__))
    header["structure"]["first"]["forward"] = 3
    rewrite(path, header=json.dumps(header))
    with pytest.raises(CheckpointError, match="size 'forward' on module 'first'"):
        load_pruned(path, model=SmallNet())


def test_any_header_length_is_told_from_pickle(tmp_path: Path) -> None:
    """The first bytes of a safetensors file are a length, and may look like pickle's."""
    model = small_tasnet()
    seen = set()
    for extra in range(0, 160, 8):
        path = save_pruned(model, tmp_path / "m.safetensors", metadata={"note": "x" * extra})
        seen.add(path.read_bytes()[0])
        assert type(load_model(path)) is type(model)
        if path.read_bytes()[0] == 0x80:
            path.write_bytes(path.read_bytes()[:-9])
            with pytest.raises(CheckpointError, match="truncated or damaged"):
                load_model(path)
    assert 0x80 in seen  # the case that matters was among them


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, this is text and no model", "not a safetensors file"),
        (b"PK\x03\x04" + b"0" * 60, "torch.save or pickle"),
        (b"\x80\x04\x95" + b"0" * 60, "torch.save or pickle"),
    ],
)
def test_wrong_files_say_what_they_look_like(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_pruned(path, model=SmallNet())


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    path = save_pruned(pruned_net(), tmp_path / "net.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_pruned(path, model=SmallNet())


def test_safetensors_of_others_missing_file_and_folder(tmp_path: Path) -> None:
    safetensors_torch.save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not one of ours"):
        load_pruned(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_pruned(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_pruned(tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_pruned(pruned_net(), tmp_path / "net.safetensors")
    before = path.read_bytes()

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pruned(pruned_net(1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_bad_arguments_of_save(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="folder does not exist"):
        save_pruned(pruned_net(), tmp_path / "no" / "net.safetensors")
    with pytest.raises(InputError, match="plain JSON"):
        save_pruned(pruned_net(), tmp_path / "net.safetensors", metadata={"model": object()})
    assert not list(tmp_path.iterdir())
