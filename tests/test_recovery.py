"""Recovery: learns, keeps the best, resumes to the bit, leaves nothing behind, names errors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning", reason="recovery needs the extra 'train'")

from sepprune_tp.errors import CheckpointError, DataError, InputError, SearchError
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.recovery import finetune
from sepprune_tp.recovery.settings import cosine_rate

TIME = 400


class Separator(nn.Module):
    """Two convolutions, with dropout so that the random state matters."""

    def __init__(self, n_src: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.encode = nn.Conv1d(1, 8, 17, padding=8)
            self.drop = nn.Dropout(0.1)
            self.decode = nn.Conv1d(8, n_src, 17, padding=8)

    def forward(self, mixture: Tensor) -> Tensor:
        decoded: Tensor = self.decode(self.drop(self.encode(mixture[:, None]).relu()))
        return decoded


class Normed(Separator):
    """One with a batch norm, whose statistics follow the batches in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, mixture: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(mixture))
        return normed


class Tones:
    """Item ``i``: a low and a high tone, of frequencies and phases drawn from ``i``."""

    def __init__(self, size: int = 64, die_at: int | None = None) -> None:
        self.size, self.die_at, self.reads = size, die_at, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        if self.die_at is not None and self.reads > self.die_at:
            raise RuntimeError("killed")
        drawn = torch.rand(4, generator=torch.Generator().manual_seed(index))
        rates = torch.stack([0.05 + 0.1 * drawn[0], 1.2 + 0.5 * drawn[1]])
        sources = torch.sin(rates[:, None] * torch.arange(TIME) + 6 * drawn[2:, None])
        return sources.sum(0), sources


def some_batches(count: int = 3, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    data = Tones()
    chosen = [[data[size * b + i] for i in range(size)] for b in range(count)]
    return [(torch.stack([m for m, _ in c]), torch.stack([s for _, s in c])) for c in chosen]


def tune(model: nn.Module, train: Any = None, val: Any = None, **options: Any) -> Any:
    given = {"steps": 20, "val_every": 5, "lr": 1e-2, "batch_size": 4, "progress": False, **options}
    return finetune(
        model,
        Tones() if train is None else train,
        some_batches() if val is None else val,
        **given,
    )


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class TestTraining:
    def test_learns_and_reports(self) -> None:
        model = Separator()
        result = tune(model, steps=40, val_every=20)
        assert [record["step"] for record in result.history] == [0, 20, 40]
        assert result.steps == 40 and result.stopped == "steps" and result.seconds > 0
        assert result.si_sdr > result.history[0]["si_sdr"] + 5
        mixture, sources = some_batches()[0]
        with torch.no_grad():
            assert pit_neg_si_sdr(model.eval()(mixture), sources) < -3

    def test_keeps_the_best_not_the_last(self) -> None:
        model = Separator()
        tune(model)
        before = copy.deepcopy(model)
        result = tune(model, lr=50.0, clip=0)
        assert same_weights(model, before), "every step made it worse, so none is kept"
        assert result.si_sdr == max(record["si_sdr"] for record in result.history)
        assert result.history[-1]["si_sdr"] < result.si_sdr - 3

    def test_same_seed_same_weights_and_another_seed_others(self) -> None:
        models = [Separator() for _ in range(3)]
        for model, seed in zip(models, (4, 4, 5), strict=True):
            tune(model, seed=seed)
        assert same_weights(models[0], models[1])
        assert not same_weights(models[0], models[2])

    @pytest.mark.parametrize("precision", ["32", "bf16-mixed", "64"])
    def test_precisions(self, precision: str) -> None:
        model = Separator()
        if precision == "64":
            model = model.double()
        result = tune(model, precision=precision)
        assert result.si_sdr > result.history[0]["si_sdr"] + 1
        assert model.encode.weight.dtype == (torch.float64 if precision == "64" else torch.float32)

    @pytest.mark.parametrize("schedule", ["plateau", "cosine"])
    def test_schedules_lower_the_rate(self, schedule: str) -> None:
        result = tune(Separator(), schedule=schedule, patience=0, lr=0.3, steps=24, val_every=2)
        rates = [record["lr"] for record in result.history]
        assert rates[0] == 0.3 and rates[-1] < 0.1 and rates == sorted(rates, reverse=True)

    def test_cosine_rate_runs_from_all_to_a_hundredth(self) -> None:
        assert [cosine_rate(1, p) for p in (0, 0.5, 1, 2)] == pytest.approx([1, 0.505, 0.01, 0.01])

    def test_stops_early(self) -> None:
        model = Separator()
        tune(model)
        result = tune(model, steps=1000, lr=50.0, clip=0, early_stop=3)
        assert result.stopped == "early_stop" and result.steps == 15

    def test_stops_by_the_clock(self) -> None:
        result = tune(Separator(), steps=10_000_000, val_every=10_000_000, max_minutes=0.01)
        assert result.stopped == "max_minutes" and result.seconds < 20
        assert result.history[-1]["step"] == result.steps > 0

    def test_frozen_parameters_stay(self) -> None:
        model = Separator()
        model.encode.requires_grad_(False)
        before = copy.deepcopy(model)
        tune(model)
        assert torch.equal(model.encode.weight, before.encode.weight)
        assert not torch.equal(model.decode.weight, before.decode.weight)

    def test_any_loss(self) -> None:
        calls = []

        def loss(estimates: Tensor, sources: Tensor) -> Tensor:
            calls.append(estimates.shape)
            return (estimates - sources).abs().mean()

        result = tune(Separator(), loss=loss)
        assert calls and result.history[-1]["val_loss"] < result.history[0]["val_loss"]


class TestTraces:
    @pytest.mark.parametrize("training", [True, False])
    def test_mode_random_state_and_gradients_are_left_alone(self, training: bool) -> None:
        model = Separator().train(training)
        state = torch.get_rng_state()
        tune(model)
        assert model.training is training
        assert torch.equal(state, torch.get_rng_state())
        assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())

    def test_a_model_in_eval_mode_is_trained_in_training_mode(self) -> None:
        given = Normed()
        tuned = [copy.deepcopy(given).train(training) for training in (True, False)]
        for model in tuned:
            tune(model)
        assert not tuned[1].training and not tuned[1].norm.training
        loaded, usual = (model.state_dict() for model in tuned)
        assert all(torch.equal(loaded[key], value) for key, value in usual.items())
        assert not torch.equal(loaded["norm.running_mean"], given.norm.running_mean)

    def test_what_is_frozen_in_a_model_in_training_mode_stays_frozen(self) -> None:
        model = Normed().train()
        model.norm.eval()
        before = model.norm.running_mean.clone()
        tune(model)
        assert model.training and not model.norm.training
        assert torch.equal(before, model.norm.running_mean)

    def test_quiet(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tune(Separator())
        assert capfd.readouterr() == ("", "")
        assert not list(tmp_path.iterdir())

    def test_progress_bar(self, capfd: pytest.CaptureFixture[str]) -> None:
        tune(Separator(), progress=True)
        assert "20/20" in capfd.readouterr().err


class TestResume:
    @pytest.mark.parametrize("options", [{}, {"schedule": "cosine"}, {"precision": "bf16-mixed"}])
    def test_killed_and_resumed_ends_in_the_same_place(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        whole, killed = Separator(), Separator()
        expected = tune(whole, **options)
        with pytest.raises(RuntimeError, match="killed"):
            tune(killed, Tones(die_at=4 * 13), checkpoint_dir=tmp_path, **options)
        resumed = Separator()
        data = Tones()
        result = tune(resumed, data, checkpoint_dir=tmp_path, **options)
        assert data.reads <= 4 * 10 + 1, "steps 0 to 9 are not done again"
        assert same_weights(whole, resumed)
        keys = ("step", "lr", "val_loss", "si_sdr")
        assert [[r[k] for k in keys] for r in result.history] == [
            [r[k] for k in keys] for r in expected.history
        ]
        assert not same_weights(killed, resumed), "negative control"

    def test_batches_resume_too(self, tmp_path: Path) -> None:
        train = some_batches(7)
        whole, resumed = Separator(), Separator()
        tune(whole, train)
        tune(Separator(), train, steps=10, checkpoint_dir=tmp_path)
        tune(resumed, train, checkpoint_dir=tmp_path)
        assert same_weights(whole, resumed)

    def test_finished_run_is_not_repeated(self, tmp_path: Path) -> None:
        first, second = Separator(), Separator()
        result = tune(first, checkpoint_dir=tmp_path)
        again = tune(second, Tones(die_at=1), checkpoint_dir=tmp_path)
        assert same_weights(first, second) and again == result
        best = torch.load(tmp_path / "best.pt", weights_only=True)
        assert torch.equal(best["encode.weight"], first.encode.weight)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]

    def test_run_that_stopped_early_stays_so_until_it_may_go_on(self, tmp_path: Path) -> None:
        model = Separator()
        tune(model)
        options = {"steps": 1000, "lr": 50.0, "clip": 0, "checkpoint_dir": tmp_path}
        first, second = copy.deepcopy(model), copy.deepcopy(model)
        result = tune(first, early_stop=2, **options)
        again = tune(second, Tones(die_at=1), early_stop=2, **options)
        assert again == result and result.steps == 10 and same_weights(first, second)
        assert tune(copy.deepcopy(model), early_stop=3, **options).steps == 15

    def test_other_run_in_the_folder(self, tmp_path: Path) -> None:
        tune(Separator(), checkpoint_dir=tmp_path)
        with pytest.raises(CheckpointError, match=r"lr differ.*resume=False"):
            tune(Separator(), lr=1e-3, checkpoint_dir=tmp_path)
        other = Separator()
        nn.init.ones_(other.decode.bias)
        with pytest.raises(CheckpointError, match="the model's weights"):
            tune(other, checkpoint_dir=tmp_path)
        assert tune(other, checkpoint_dir=tmp_path, resume=False).steps == 20

    def test_truncated_checkpoint(self, tmp_path: Path) -> None:
        tune(Separator(), checkpoint_dir=tmp_path)
        path = tmp_path / "last.pt"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match=r"Cannot resume from .*last.pt"):
            tune(Separator(), checkpoint_dir=tmp_path)


class TestErrors:
    @pytest.mark.parametrize("loader", ["train", "val"])
    def test_empty_loader(self, loader: str) -> None:
        with pytest.raises(DataError, match=f"The {loader} loader .* is empty"):
            tune(Separator(), **{loader: []})

    def test_generator_that_runs_out(self) -> None:
        with pytest.raises(DataError, match="rather than a generator"):
            tune(Separator(), (batch for batch in some_batches(2)))

    def test_loader_that_gives_nothing(self) -> None:
        class Nothing:
            def __iter__(self) -> Iterator[Any]:
                return iter(())

        with pytest.raises(DataError, match="ran out"):
            tune(Separator(), Nothing())
        with pytest.raises(DataError, match="val loader gave no batch"):
            tune(Separator(), val=Nothing())

    def test_nan_in_a_batch_names_the_step(self) -> None:
        train = some_batches(5)
        train[3][0][0, 0] = float("nan")
        with pytest.raises(DataError, match=r"training at step 3 holds NaN"):
            tune(Separator(), train)

    def test_nan_loss_names_the_step(self) -> None:
        def broken(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
            def loss(estimates: Tensor, sources: Tensor) -> Tensor:
                value = pit_neg_si_sdr(estimates, sources)
                calls.append(model.training)
                return value * float("nan") if sum(calls) > 2 else value

            calls: list[bool] = []
            return loss

        model = Separator()
        with pytest.raises(SearchError, match=r"training at step 2 although.*Lower lr"):
            tune(model, loss=broken(model))

    def test_wrong_shapes(self) -> None:
        with pytest.raises(InputError, match=r"\(4, 3, 400\).*\(4, 2, 400\)"):
            tune(Separator(n_src=3))
        swapped = [(s, m) for m, s in some_batches()]
        with pytest.raises(InputError, match=r"mixture \(B, T\) and sources \(B, S, T\)"):
            tune(Separator(), swapped)
        with pytest.raises(InputError, match="pair of tensors"):
            tune(Separator(), [torch.zeros(3)])

    def test_nothing_to_train(self) -> None:
        with pytest.raises(InputError, match="requires a gradient"):
            tune(Separator().requires_grad_(False))

    @pytest.mark.parametrize(
        "bad", [{"steps": 0}, {"lr": 0.0}, {"factor": 1.0}, {"schedule": "step"}, {"epochs": 3}]
    )
    def test_bad_settings_are_named(self, bad: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=next(iter(bad))):
            tune(Separator(), **bad)
