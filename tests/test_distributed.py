"""Two processes end where one does with the same batches, and none waits for one that failed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

models = pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")

from sepprune_tp.errors import DataError, InputError, SearchError  # noqa: E402
from sepprune_tp.gates import GateSet  # noqa: E402
from sepprune_tp.job import SearchSettings, search  # noqa: E402
from sepprune_tp.launching import launch  # noqa: E402
from sepprune_tp.losses import pit_neg_si_sdr  # noqa: E402
from sepprune_tp.search import Budget, SearchResult, learn_gates, share_of  # noqa: E402
from sepprune_tp.search.processes import Processes  # noqa: E402
from sepprune_tp.search.sharing import ItemBatches, Part  # noqa: E402

TIME, STEPS, COUNT = 800, 40, 2
Found = dict[str, Any]


class Tones:
    """Item ``i``: a low and a high tone, of frequencies and phases drawn from ``i``."""

    def __init__(self, size: int = 24) -> None:
        self.size = size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read.append(index)
        drawn = torch.rand(4, generator=torch.Generator().manual_seed(index))
        rates = torch.stack([0.05 + 0.1 * drawn[0], 1.2 + 0.5 * drawn[1]])
        sources = torch.sin(rates[:, None] * torch.arange(TIME) + 6 * drawn[2:, None])
        return sources.sum(0).double(), sources.double()


def separator() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = models.ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=16, skip_chan=8, n_blocks=2, n_repeats=1
        )
    return model.eval().double()


def batches(count: int = 5, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    stream = iter(ItemBatches(Tones(), size))
    return [next(stream) for _ in range(count)]


SEARCHES: dict[str, dict[str, Any]] = {
    "budget": {},
    "lookahead": {"lookahead": True},
    "gumbel": {"kind": "gumbel", "lr": 0.5},
}


@cache
def gates_of(kind: str) -> GateSet:
    return GateSet(separator(), batches(1)[0][0][:1], scope="all", kind=kind)


def learn(given: Any, kind: str = "budget", **options: Any) -> tuple[GateSet, SearchResult]:
    gates = gates_of(kind)
    budget = None if kind == "gumbel" else Budget(macs=0.5)
    options = {"steps": STEPS, "progress": False, **options}
    return gates, learn_gates(gates, given, budget=budget, **options)


def figures(gates: GateSet, result: SearchResult) -> Found:
    return {"keep": gates.keep, "scores": gates.scores.cpu(), "history": result.history}


@cache
def alone(name: str) -> Found:
    """One process with whole batches."""
    return figures(*learn(batches(), **SEARCHES[name]))


# -- what each of the two processes does ---------------------------------------------------------


class Breaks:
    """The task loss, until it is called for the ``last + 1``-th time."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self, estimates: Tensor, sources: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("out of patience")
        return pit_neg_si_sdr(estimates, sources)


def failing(do: Callable[[], Any]) -> Found:
    began = time.monotonic()
    try:
        do()
    except Exception as error:
        return {
            "type": type(error).__name__,
            "text": str(error),
            "seconds": time.monotonic() - began,
        }
    return {"type": "none"}


def with_a_hole(given: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    mixture = given[2][0].clone()
    mixture[0, 5] = torch.nan
    return [*given[:2], (mixture, given[2][1]), *given[3:]]


def interrupted(rank: int, folder: Path) -> Found:
    """A search that one process ends at step 25, and another that goes on with its file."""
    file = folder / "search.pt" if rank == 0 else folder / "not" / "seen.pt"
    options = {"checkpoint": file, "checkpoint_every": 10, "lookahead": True}
    loss = pit_neg_si_sdr if rank == 0 else Breaks(25)
    stopped = failing(lambda: learn(share_of(batches()), loss=loss, **options))
    found = figures(*learn(share_of(batches()), **options))
    return {**found, "stopped": stopped, "written": file.exists()}


def unequal(rank: int) -> Found:
    cut = slice(0, 3) if rank == 0 else slice(3, 4)
    return figures(*learn([(mixture[cut], sources[cut]) for mixture, sources in batches()]))


def without_exchange(name: str) -> Found:
    """The negative control: gradients of the own part alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "mean", lambda self, tensors, weight: list(tensors))
        return figures(*learn(share_of(batches()), **SEARCHES[name]))


def work(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo",
        f"file://{folder}/rendezvous",
        rank=rank,
        world_size=COUNT,
        timeout=timedelta(seconds=60),
    )
    own = share_of(batches())
    assert isinstance(own, list)
    found: dict[str, Found] = {
        name: figures(*learn(share_of(batches()), **options)) for name, options in SEARCHES.items()
    }
    found |= {f"{name} apart": without_exchange(name) for name in SEARCHES}
    found["unequal"] = unequal(rank)
    found["interrupted"] = interrupted(rank, folder)
    found["data"] = failing(lambda: learn(with_a_hole(own) if rank == 1 else own))
    found["not ours"] = failing(lambda: learn(own, loss=Breaks(5 if rank == 0 else 1000)))
    found["seeds"] = failing(lambda: learn(own, seed=rank))
    found["empty"] = failing(lambda: learn(own if rank == 0 else []))
    found["indivisible"] = failing(lambda: share_of(batches(size=3)))
    found["indivisible later"] = failing(lambda: list(share_of(iter(batches(size=1)))))
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Found]]]:
    """What each of two processes found, in at most two minutes."""
    folder = tmp_path_factory.mktemp("processes")
    context = multiprocessing.spawn(work, (folder,), nprocs=COUNT, join=False)
    end = time.monotonic() + 120
    try:
        while not context.join(timeout=5):
            assert time.monotonic() < end, "the processes hang"
    finally:
        for process in context.processes:
            process.kill()
    yield [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]


# -- the search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
def test_two_processes_find_the_masks_of_one(both: list[dict[str, Found]], name: str) -> None:
    expected = alone(name)
    assert 0 < expected["keep"].float().mean() < 1
    for found in (process[name] for process in both):
        assert torch.equal(found["keep"], expected["keep"])
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-5, atol=1e-5)
        for one, other in zip(found["history"], expected["history"], strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    assert torch.equal(both[0][name]["scores"], both[1][name]["scores"])
    assert both[0][name]["history"] == both[1][name]["history"]


@pytest.mark.parametrize("name", SEARCHES)
def test_without_exchange_they_find_others(both: list[dict[str, Found]], name: str) -> None:
    assert not torch.equal(both[0][f"{name} apart"]["keep"], alone(name)["keep"])


def test_parts_of_other_sizes_count_by_their_mixtures(both: list[dict[str, Found]]) -> None:
    for process in both:
        assert torch.equal(process["unequal"]["keep"], alone("budget")["keep"])
        scores = alone("budget")["scores"]
        torch.testing.assert_close(process["unequal"]["scores"], scores, rtol=0, atol=1e-5)


def test_a_resumed_search_ends_in_the_same_place(both: list[dict[str, Found]]) -> None:
    for process in both:
        assert torch.equal(process["interrupted"]["scores"], process["lookahead"]["scores"])
        assert process["interrupted"]["history"] == process["lookahead"]["history"]
        assert process["interrupted"]["stopped"]["type"] in ("RuntimeError", "SearchError")
    assert [process["interrupted"]["written"] for process in both] == [True, False]


def test_an_error_in_one_process_ends_both(both: list[dict[str, Found]]) -> None:
    first, second = (process["data"] for process in both)
    assert (first["type"], second["type"]) == (DataError.__name__, DataError.__name__)
    assert second["text"].startswith("the mixture of batch 2 holds NaN")
    assert first["text"] == f"process 1 of 2: {second['text']}"
    first, second = (process["not ours"] for process in both)
    assert (first["type"], first["text"]) == ("RuntimeError", "out of patience")
    assert second["type"] == SearchError.__name__
    assert second["text"] == "process 0 of 2: RuntimeError: out of patience"
    assert all(process["empty"]["text"].find("batches is empty") >= 0 for process in both)
    for name in ("data", "not ours", "seeds", "empty"):
        assert all(process[name]["seconds"] < 20 for process in both)


def test_different_settings_are_refused(both: list[dict[str, Found]]) -> None:
    assert [process["seeds"]["type"] for process in both] == [InputError.__name__] * 2
    expected = "process 1 searches with seed=1, not 0 as process 0 does"
    assert all(expected in process["seeds"]["text"] for process in both)


def test_indivisible_batches_are_refused(both: list[dict[str, Found]]) -> None:
    for process in both:
        for name, size in (("indivisible", 3), ("indivisible later", 1)):
            text = f"batch 0 holds {size} mixtures, which 2 processes cannot share evenly"
            assert process[name]["text"].startswith(text)


# -- parts of batches ----------------------------------------------------------------------------


def test_one_process_gets_the_batches_themselves() -> None:
    given = batches()
    assert share_of(given) is given and Part.mine() == Part(0, 1)


def test_items_of_other_parts_are_not_read() -> None:
    whole, parts = Tones(), [Tones(), Tones()]
    expected = ItemBatches(whole, 4, shuffle_seed=3).starting(7)
    halves = [ItemBatches(p, 4, 3, Part(r, 2)).starting(7) for r, p in enumerate(parts)]
    for _ in range(5):
        mixture, sources = next(expected)
        both = [next(half) for half in halves]
        assert torch.equal(mixture, torch.cat([part[0] for part in both]))
        assert torch.equal(sources, torch.cat([part[1] for part in both]))
    assert [len(part.read) for part in parts] == [10, 10] and len(whole.read) == 20
    with pytest.raises(InputError, match=r"batch_size=3\) holds 3 mixtures, which 2 processes"):
        ItemBatches(whole, 3).shared(Part(0, 2))


# -- processes that are started here -------------------------------------------------------------


class Hole(Tones):
    """Item 2, of the second half of the first batch, holds NaN."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        mixture, sources = super().__getitem__(index)
        return (mixture * torch.nan if index == 2 else mixture), sources


def tune(model: nn.Module, train: Any, **options: Any) -> Any:
    pytest.importorskip("lightning", reason="recovery needs the extra 'train'")
    from sepprune_tp.recovery import finetune

    given = {"batch_size": 4, "steps": 10, "val_every": 4, "lr": 1e-2, "precision": "64"}
    given |= {"accelerator": "cpu", "progress": False, **options}
    return finetune(model, train, Tones(10), **given)


def test_recovery_on_two_devices_gives_the_weights_of_one(tmp_path: Path) -> None:
    dense, one, two = separator(), separator(), separator()
    expected = tune(one, Tones())
    result = tune(two, Tones(), devices=2, checkpoint_dir=tmp_path)
    assert not any(parameter.is_shared() for parameter in two.parameters())
    weights, last = two.state_dict(), torch.load(tmp_path / "last.pt")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)
    assert not torch.equal(
        weights["encoder.filterbank._filters"], dense.encoder.filterbank._filters
    )
    assert last["step"] == result.steps == 10
    for record, wanted in zip(result.history, expected.history, strict=True):
        del record["seconds"], wanted["seconds"]
        assert record == pytest.approx(wanted, rel=1e-6)
    # validation of one part alone would give another figure: three batches for two devices
    assert result.si_sdr == pytest.approx(expected.si_sdr, rel=1e-9)


def test_recovery_ends_with_the_error_of_one_device() -> None:
    model, before = separator(), separator()
    with pytest.raises(DataError, match="The batch in training at step 0 holds NaN or infinity"):
        tune(model, [next(iter(ItemBatches(Hole(), 4)))], devices=2)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_recovery_refuses_what_cannot_be_shared_or_copied() -> None:
    with pytest.raises(InputError, match=r"batch_size=3\) holds 3 mixtures, which 2 processes"):
        tune(separator(), Tones(), devices=2, batch_size=3)
    with pytest.raises(InputError, match=r"devices=2 starts processes that get copies.*lambda"):
        tune(separator(), Tones(), devices=2, loss=lambda estimates, sources: estimates.sum())


def test_search_on_two_devices_gives_the_masks_of_one() -> None:
    pytest.importorskip("lightning", reason="needs the extra 'train'")
    model, example = separator(), batches(1)[0][0][:1]
    settings = SearchSettings(steps=20, scope="all")
    stream = ItemBatches(Tones(), 4, shuffle_seed=1)
    expected, _ = search(model, example, stream, settings)
    gates, result = search(model, example, stream, settings, devices=2, accelerator="cpu")
    assert torch.equal(gates.keep, expected.keep) and not bool(gates.keep.all())
    torch.testing.assert_close(gates.scores, expected.scores, rtol=0, atol=1e-5)
    assert gates.ties is not None and gates.learned and len(result.history) == 20
    with pytest.raises(InputError, match="which 2 processes cannot share evenly"):
        search(model, example, ItemBatches(Tones(), 3), settings, devices=2, accelerator="cpu")


def dies(device: torch.device, number: int) -> None:
    if distributed.get_rank() == number:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def test_a_killed_process_ends_the_others() -> None:
    pytest.importorskip("lightning", reason="needs the extra 'train'")
    before = dict(os.environ)
    told = r"(?s)(process 1 .*SIGKILL|Another process was lost); was the memory exhausted\?"
    with pytest.raises(SearchError, match=told):
        launch(dies, 1, devices=2, accelerator="cpu")
    assert dict(os.environ) == before
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="devices=2 with accelerator='gpu'"):
            launch(dies, 1, devices=2, accelerator="gpu")
