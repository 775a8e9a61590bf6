"""In Python, Ctrl-C raises what it always does, with the state written first; and the locks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning", reason="recovery needs the extra 'train'")

from sepprune_tp import Budget, GateSet, learn_gates
from sepprune_tp.errors import BusyError, CheckpointError
from sepprune_tp.files.locking import alone_with, lock_of
from sepprune_tp.interruption import Interrupted, stoppable
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.recovery import finetune


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def gates_and_batches() -> tuple[GateSet, list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Conv1d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 2, 9, padding=4))
        model = nn.Sequential(nn.Unflatten(1, (1, 64)), *layers)
    data = [torch.randn(2, 2, 64, generator=generator) for _ in range(5)]
    batches = [(sources.sum(1), sources) for sources in data]
    return GateSet(model, batches[0][0], "all"), batches


class Signalling:
    """A loss that sends its own process signals at one call."""

    def __init__(self, call: int, *signals: int) -> None:
        self.call, self.signals, self.calls = call, signals, 0

    def __call__(self, estimates: Tensor, sources: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.call:
            for number in self.signals:
                os.kill(os.getpid(), number)
        return pit_neg_si_sdr(estimates, sources)


def search(loss: Signalling, **options: Any) -> Tensor:
    gates, batches = gates_and_batches()
    given: dict[str, Any] = {"budget": Budget(macs=0.5), "steps": 12, "progress": False}
    learn_gates(gates, batches, loss, **given, **options)
    return torch.cat([gates.scores.detach(), gates.keep])


def test_learn_gates_raises_what_ctrl_c_raises(tmp_path: Path) -> None:
    file, handlers = tmp_path / "state", [signal.getsignal(n) for n in (2, 15)]
    with pytest.raises(KeyboardInterrupt, match="step 7 of 12 of the search is in"):
        search(Signalling(7, signal.SIGINT), checkpoint=file)
    assert torch.load(file, weights_only=True)["step"] == 7
    resumed, loss = None, Signalling(0)
    resumed = search(loss, checkpoint=file)
    assert loss.calls == 5
    assert torch.equal(resumed, search(Signalling(0)))
    with pytest.raises(KeyboardInterrupt):  # in the last step: it is not forgotten
        search(Signalling(12, signal.SIGINT), checkpoint=tmp_path / "other")
    assert files(tmp_path) == ["other", "state"]
    assert [signal.getsignal(n) for n in (2, 15)] == handlers


def test_without_a_checkpoint_nothing_waits() -> None:
    loss = Signalling(3, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        search(loss)
    assert not isinstance(caught.value, Interrupted) and loss.calls == 3


def test_own_handlers_are_left_alone(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        search(Signalling(3, signal.SIGINT), checkpoint=tmp_path / "state")
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.drop = nn.Conv1d(1, 8, 9, padding=4), nn.Dropout(0.1)
            self.last = nn.Conv1d(8, 2, 9, padding=4)

    def forward(self, mixture: Tensor) -> Tensor:
        found: Tensor = self.last(self.drop(self.first(mixture[:, None]).relu()))
        return found


def tune(loss: Any, folder: Path | None, **options: Any) -> tuple[dict[str, Tensor], Any]:
    model, (_, batches) = Model(), gates_and_batches()
    given: dict[str, Any] = {"steps": 14, "val_every": 4, "lr": 1e-2, "progress": False, **options}
    given |= {"accelerator": "cpu", "checkpoint_dir": folder}
    result = finetune(model, batches, batches[:1], loss=loss, **given)
    return model.state_dict(), result


@pytest.mark.parametrize(
    ("call", "step"), [(1, 0), (4, 3), (6, 4), (17, 13), (19, 14)]
)  # a validation is one call: before 0 and behind 4, 8, 12 and 14 steps
def test_finetune_raises_what_ctrl_c_raises(tmp_path: Path, call: int, step: int) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"step {step} of 14 of the recovery is in"):
        tune(Signalling(call, signal.SIGINT), tmp_path)
    weights, result = tune(Signalling(0), tmp_path)
    expected, whole = tune(Signalling(0), None)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert _without_times(result.history) == _without_times(whole.history)
    assert files(tmp_path) == ["best.pt", "last.pt"]


def _without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_finetune_without_a_folder_ends_at_once() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tune(Signalling(3, signal.SIGINT), None)
    assert signal.getsignal(signal.SIGINT) is handler, "Lightning would ignore it from then on"


def test_finetune_refuses_other_data_and_losses(tmp_path: Path) -> None:
    tune(pit_neg_si_sdr, tmp_path)
    with pytest.raises(CheckpointError, match=r"loss differ.*--restart"):
        tune(Signalling(0), tmp_path)
    model, (_, batches) = Model(), gates_and_batches()
    with pytest.raises(CheckpointError, match=r"another run: train differ"):
        finetune(
            model,
            batches[1:],
            batches[:1],
            steps=14,
            val_every=4,
            lr=1e-2,
            progress=False,
            checkpoint_dir=tmp_path,
        )


# -- locks ---------------------------------------------------------------------------------------


def test_one_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "model"
    with alone_with(file):
        told = json.loads(lock_of(file).read_text())
        assert told["pid"] == os.getpid()
        with (
            pytest.raises(BusyError, match=rf"process {os.getpid()} works on .*model since 20"),
            alone_with(file),
        ):
            pass
        with alone_with(tmp_path / "other"):
            assert lock_of(tmp_path / "other").exists()
    assert not files(tmp_path)
    with alone_with(file):
        pass


def test_locks_of_dead_processes_lock_nothing(tmp_path: Path) -> None:
    file = tmp_path / "model"
    lock_of(file).write_text(json.dumps({"pid": 1, "since": "long ago"}))
    with alone_with(file):
        assert json.loads(lock_of(file).read_text())["pid"] == os.getpid()
    lock_of(file).write_text("half writ")
    with alone_with(file):
        pass
    assert not files(tmp_path)


def test_two_signals_raise_where_the_program_is() -> None:
    def steps() -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGINT)
        yield 1
        os.kill(os.getpid(), signal.SIGINT)
        yield 2

    done = []
    with pytest.raises(Interrupted), stoppable() as stop:
        for step in steps():
            done.append(step)
            assert stop
    assert done == [1]
