"""States of searches and recoveries that a killed run left."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning")
from dataclasses import asdict

from fuzzing import COUNTS, Reader, check
from mutations import pickle_changed

from sepprune_tp import Budget, GateSet, learn_gates
from sepprune_tp.errors import CheckpointError
from sepprune_tp.interruption import Stop
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.recovery import finetune
from sepprune_tp.recovery.data import TrainStream
from sepprune_tp.recovery.loop import RecoveryModule, RunState
from sepprune_tp.recovery.settings import RecoverySettings

TIME = 200


class Small(nn.Module):
    """Two convolutions that make two sources of a mixture."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.encode = nn.Conv1d(1, 8, 5, padding=2)
            self.decode = nn.Conv1d(8, 2, 5, padding=2)

    def forward(self, mixture: Tensor) -> Tensor:
        found: Tensor = self.decode(self.encode(mixture[:, None]).relu())
        return found


def items(count: int) -> list[tuple[Tensor, Tensor]]:
    sources = torch.randn(count, 2, TIME, generator=torch.Generator().manual_seed(0))
    return [(source.sum(0), source) for source in sources]


BATCHES = [(mixture[None], sources[None]) for mixture, sources in items(3)]
DATA = items(4)
OPTIONS: dict[str, Any] = {"steps": 4, "val_every": 2, "lr": 1e-3}


def search(path: Path) -> GateSet:
    gates = GateSet(Small().eval(), torch.randn(1, TIME), scope="all")
    learn_gates(
        gates,
        BATCHES,
        budget=Budget(macs=0.7),
        steps=3,
        progress=False,
        checkpoint=path,
        checkpoint_every=2,
        lookahead=True,
    )
    return gates


def read_search(path: Path) -> int:
    """Go on, to the end."""
    return int(sum(mask.numel() for mask in search(path).masks().values()))


def recover(folder: Path) -> nn.Module:
    model = Small()
    finetune(model, DATA, DATA, batch_size=2, checkpoint_dir=folder, progress=False, **OPTIONS)
    return model


SETTINGS = RecoverySettings(**OPTIONS)
FIRST = Small()


def read_recovery(path: Path) -> int:
    """Up to the first step, with all that it needs."""
    from sepprune_tp.recovery.finetuning import fingerprint

    model = copy.deepcopy(FIRST)
    state = RunState.begin(model, asdict(SETTINGS), fingerprint(model), path.parent, True, {})
    stream = TrainStream(DATA, 2, SETTINGS.seed)
    module = RecoveryModule(
        model, pit_neg_si_sdr, SETTINGS, state, path.parent, stream, None, Stop()
    )
    optimizer = module.configure_optimizers()
    optimizer.zero_grad()
    mixture, sources = BATCHES[0]
    pit_neg_si_sdr(model(mixture), sources).backward()
    optimizer.step()
    model.load_state_dict(state.best)
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("made")
    search(folder / "search.pt")
    recover(folder / "run")
    starts = (b"PK\x03\x04", b"\x80\x02")
    search_file, run_file = folder / "search.pt", folder / "run" / "last.pt"
    readers = (
        Reader("search", [search_file.read_bytes()], read_search, pickle_changed, starts),
        Reader(
            "recovery",
            [run_file.read_bytes()],
            read_recovery,
            pickle_changed,
            starts,
            file="last.pt",
        ),
    )
    return {reader.name: reader for reader in readers}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["search", "recovery"])
@pytest.mark.timeout(1800)
def test_readers_keep_the_law(
    made: dict[str, Reader], name: str, count: int, tmp_path: Path
) -> None:
    check(made[name], tmp_path, count)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scores", torch.zeros(3)),
        ("scores", torch.zeros(1)),
        ("step", 2.0),
        ("step", -1),
        ("step", 10**9),
        ("history", [{"loss": "x"}] * 2),
        ("multipliers", torch.zeros(1)),
        ("generator", torch.zeros(4, dtype=torch.uint8)),
        ("optimizer", {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}),
        ("ahead", None),
        ("ahead", {"moments": [torch.ones(2, 2)], "source": [7]}),
    ],
)
def test_a_search_that_was_changed(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "search.pt"
    search(path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, key: value}, path)
    with pytest.raises(CheckpointError, match="Delete it or give another path"):
        search(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", {}),
        ("best", {"encode.weight": torch.zeros(1)}),
        ("step", "4"),
        ("history", [{}]),
        ("history", 3),
        ("plateau", {"best": "x"}),
        ("optimizer", {"state": {}, "param_groups": [{"lr": float("nan")}]}),
        ("optimizer", [1]),
        ("stopped", None),
        ("more", 1),
        ("settings", None),
        ("fingerprint", torch.ones(2)),
    ],
)
def test_a_recovery_that_was_changed(tmp_path: Path, key: str, value: Any) -> None:
    recover(tmp_path)
    path = tmp_path / "last.pt"
    content = torch.load(path, weights_only=True)
    step = {"step": 2, "history": content["history"][:2], "stopped": ""}
    torch.save({**content, **step, key: value}, path)
    with pytest.raises(CheckpointError):
        recover(tmp_path)
    torch.save({**content, **step}, path)  # negative control
    recover(tmp_path)
