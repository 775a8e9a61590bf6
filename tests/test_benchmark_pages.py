"""The page of results says what the records hold, the same bytes every time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asteroid", reason="the benchmarks need the extra 'asteroid'")
pytest.importorskip("matplotlib", reason="plots need the extra 'cli'")
pytest.importorskip("benchmarks.harness", reason="benchmarks/ is not installed")

from benchmarks.harness.bench import encoded
from benchmarks.harness.config import Choice, Experiment, Recovery, find
from benchmarks.harness.data import FSDD, open_corpus
from benchmarks.kinds import targets
from benchmarks.kinds.stability import overlap
from benchmarks.pages import ablation, curves, plots, published, quality, recovery
from benchmarks.pages.markdown import spread

Record = dict[str, Any]


@pytest.fixture(autouse=True)
def _plots_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "FOLDER", tmp_path / "plots")


def experiment(**changed: Any) -> Experiment:
    values: dict[str, Any] = {
        "name": "tried",
        "kind": "quality",
        "title": "Tried",
        "models": ("ConvTasNet",),
        "budgets": (0.5,),
        "seeds": (0, 1),
        "criteria": tuple(Choice(n, n) for n in ("sepprune", "GroupTaylorImportance", "HRank")),
        "recoveries": {n: Recovery(n) for n in ("pruned", "recovered")},
    }
    return Experiment(**{**values, **changed})


def record(criterion: str, seed: int, per_mixture: list[float], **changed: Any) -> Record:
    return {
        "experiment": "tried",
        "model": "ConvTasNet",
        "data": "fsdd",
        "criterion": criterion,
        "budget": 1.0 if criterion == "none" else 0.5,
        "seed": seed,
        "recovery": "pruned",
        "stage": "dense" if criterion == "none" else "pruned",
        "si_sdri": sum(per_mixture) / len(per_mixture),
        "sdri": 1.0,
        "per_mixture": per_mixture,
        "params": 1000,
        "macs": 2_000_000,
        "macs_share": 0.498,
        "seconds": 3.0,
        "choosing_seconds": 7.0,
        "machine": "here",
        "date": "2026-01-02",
        "config": {
            "criterion": {"name": criterion, "options": {}},
            "recovery": {"batch_size": 4, "first": ""},
        },
        **changed,
    }


RECORDS = [
    record("none", 0, [9.0, 8.0, 7.0, 8.0]),
    record("sepprune", 0, [6.0, 5.0, 4.0, 5.0]),
    record("sepprune", 1, [6.5, 5.5, 5.0, 5.0]),
    record("GroupTaylorImportance", 0, [4.0, 4.0, 3.0, 3.0]),
    record("GroupTaylorImportance", 1, [4.0, 4.0, 3.0, 4.0]),
    record("HRank", 0, [6.4, 5.5, 5.0, 5.0]),
]


def test_quality_holds_means_spreads_and_the_best_other_that_has_all_seeds() -> None:
    lines = quality.section(experiment(), RECORDS)
    assert "| 50% | sepprune | 5.25 ± 0.35 | 1,000 | 49.8% | 7 |" in lines
    assert "| 50% | HRank | 5.47 (1) | 1,000 | 49.8% | 7 |" in lines
    row = next(line for line in lines if line.startswith("| 50% | pruned | sepprune |"))
    # HRank is better, but on one seed only
    assert "GroupTaylorImportance (3.62) | +1.62 ± 0.18 | 2 |" in row
    assert 0.001 < float(row.rsplit("|", 2)[1]) < 0.02
    more = [*RECORDS, record("HRank", 1, [6.5, 5.5, 5.0, 5.0])]
    both = [line for line in quality.section(experiment(), more) if "| pruned | sepprune |" in line]
    assert len(both) == 2  # torch-pruning's best, and a better one that is not torch-pruning's
    assert "GroupTaylorImportance" in both[0] and "HRank (5.49) | -0.24" in both[1]


def test_targets_are_met_or_missed_as_the_figures_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(targets, "find", lambda name: experiment())
    monkeypatch.setattr(targets, "current", lambda one: RECORDS)
    asked = {"pruned": 1.62, "recovered": 0.3}
    criteria = dict.fromkeys(asked, "sepprune")
    options = {"ahead": {"criteria": criteria, "budgets": {0.5: asked}}}
    lines = targets.KIND.section(experiment(options=options))
    ahead = "| ahead at 50% of the MACs, pruned (dB) | ConvTasNet | 1.62 | +1.62 ± 0.18, "
    assert f"{ahead}GroupTaylorImportance | 2 | met |" in lines
    assert lines[-1].endswith("| 0.3 |  |  | not measured |")
    asked["pruned"] = 1.63
    assert "| 2 | missed by 0.01 |" in targets.KIND.section(experiment(options=options))[2]


def test_a_whole_way_is_compared_with_another_and_not_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = [record("GroupTaylorImportance", s, [4.5] * 4, recovery="recovered") for s in (0, 1)]
    monkeypatch.setattr(targets, "find", lambda name: experiment())
    monkeypatch.setattr(targets, "current", lambda one: [*RECORDS, *trained])
    whole = {
        "criterion": "sepprune",
        "recovery": "pruned",
        "against": "recovered",
        "budgets": [0.5],
    }
    lines = targets.KIND.section(experiment(options={"whole": whole}))
    assert lines[-1].startswith("| ours pruned over theirs recovered, 50% of the MACs (dB) |")
    assert lines[-1].endswith("|  | +0.75 ± 0.35, GroupTaylorImportance | 2 |  |")


@pytest.mark.parametrize(
    ("trained", "factor"),
    [
        ([(0, 1.0), (4, 3.0)], 10.0),
        ([(0, 3.5)], math.inf),
        ([(0, 1.0), (9, 0.5)], math.inf),
        ([(0, 1.0), (5, 2.9)], 8.0),
    ],  # it never gets to 3, but both get to 2.9
)
def test_sooner_is_a_ratio_of_steps(trained: list[tuple[int, float]], factor: float) -> None:
    assert curves.sooner(trained, [(0, 0.0), (40, 3.0), (80, 2.0)]) == factor


def test_plots_are_the_same_bytes_of_the_same_records() -> None:
    quality.section(experiment(), RECORDS)
    first = (plots.FOLDER / "tried_ConvTasNet.svg").read_bytes()
    quality.section(experiment(), list(RECORDS))
    assert (plots.FOLDER / "tried_ConvTasNet.svg").read_bytes() == first
    changed = [*RECORDS[:-1], record("HRank", 0, [1.0, 1.0, 1.0, 1.0])]
    quality.section(experiment(), changed)
    assert (plots.FOLDER / "tried_ConvTasNet.svg").read_bytes() != first


def test_the_whole_page_is_the_same_bytes_twice(tmp_path: Path) -> None:
    from benchmarks.pages import PAGE, write

    first = write(tmp_path / "a.md").read_bytes()
    assert write(tmp_path / "b.md").read_bytes() == first and first.startswith(b"# Results\n")
    assert first == PAGE.read_bytes(), "run `make results`"


def test_curves_say_how_much_sooner() -> None:
    def history(*points: tuple[int, float]) -> list[Record]:
        return [{"step": step, "si_sdr": value} for step, value in points]

    both = {"stage": "recovered"}
    fitted: Record = {
        "config": {
            "criterion": {"name": "sepprune", "options": {}},
            "recovery": {"batch_size": 4, "first": "least squares"},
        }
    }
    records = [
        record("none", 0, [8.0, 8.0]),
        record("sepprune", 0, [2.0, 2.0]),
        record("sepprune", 0, [4.0, 4.0], recovery="reconstructed", **fitted),
        record("sepprune", 0, [6.0, 6.0], recovery="one epoch, repaired", **both, **fitted,
               validation_si_sdr=5.0),
        record("sepprune", 0, [7.0, 7.0], recovery="recovered", **both,
               history=history((0, 4.0), (10, 6.0), (20, 7.0))),
        record("sepprune", 0, [5.0, 5.0], recovery="scratch", **both,
               history=history((0, -9.0), (200, 3.0), (400, 5.5))),
    ]  # fmt: skip
    rows = (
        {"step": 0, "si_sdr": -30.0},
        {"step": 125, "si_sdr": 4.9},
        {"step": 250, "si_sdr": 5.1},
    )
    own = curves.heard({"training": {"batch_size": 4}, "history": rows})
    assert own == [(0, -30.0), (500, 4.9), (1000, 5.1)]
    name = "ConvTasNet"
    assert curves.after_an_epoch(name, records[0], records, own, 50) == [
        [name, "sepprune", "50%", "repaired", "1", "4.00", "6.00", "75.0%", "1,000", "20 ×", "2 ×"]
    ]
    assert curves.after_an_epoch(name, records[0], records, own[:2], 50)[0][-3:] == [
        "never",
        "",
        "",
    ]
    assert curves.against_scratch(name, records, curves.mean_curves(records)) == [
        [name, "sepprune", "50%", "1 / 1", "7.00 after 20", "5.00 after 400", "40 ×", "3 ×"]
    ]
    assert curves.first_reached([(0, 1.0), (5, 2.0)], 3.0) is None


def test_targets_say_how_much_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(recovery: str, *points: tuple[int, float], **more: Any) -> Record:
        history = [{"step": step, "si_sdr": value} for step, value in points]
        kept = max(value for _, value in points)
        more = {"stage": "recovered", "history": history, "validation_si_sdr": kept, **more}
        return record("sepprune", 0, [kept] * 4, recovery=recovery, **more)

    recoveries = {way: Recovery(way, steps=10, batch_size=5) for way in ("one epoch", "scratch")}
    tried = experiment(recoveries=recoveries)
    dense = record("none", 0, [8.0] * 4)
    found = [dense, trained("one epoch", (0, 4.0), (10, 6.0))]
    own = {"training": {"batch_size": 4}, "history": [{"step": 500, "si_sdr": 6.5}]}
    monkeypatch.setattr(targets, "find", lambda name: tried)
    monkeypatch.setattr(targets, "current", lambda one: found)
    monkeypatch.setattr(targets, "description_of", lambda *one: own)

    def said() -> list[str]:
        lines = targets.KIND.section(experiment(options={"epoch": 0.95, "sooner": 36}))[2:]
        return [line.partition("| ConvTasNet |")[2] for line in lines]

    missed, again, unknown = said()
    assert missed == " 95% | 75.0% | 1 | missed by 20.0 |"
    assert again == " 36 × | 40 × (4 ×) | 1 | met |"  # 2,000 mixtures over 50, and a search of 500
    assert unknown == " 36 × |  |  | not measured |"
    found += [trained("recovered", (0, 4.0), (10, 6.0), (20, 7.0))]
    found += [trained("scratch", (0, -9.0), (200, 6.0), (400, 6.1))]
    assert said()[2] == " 36 × | 20 × (3 ×) | 1 | missed by 16 |"
    found[-1] = trained("scratch", (0, -9.0), (400, 3.0))
    own["history"] = [{"step": 500, "si_sdr": 5.9}]
    never = " 36 × | the dense model never is (the dense model never is) | 1 | met |"
    assert said()[1:] == [never, " 36 × | at once (3 ×) | 1 | met |"]


def test_an_epoch_is_as_much_speech_as_there_is_to_train_on() -> None:
    asked = find("curves")
    if not FSDD.is_dir():
        pytest.skip(f"no speech recordings in {FSDD}")
    seconds = asked.recoveries["one epoch"].seconds
    speech = open_corpus(asked.data).epoch
    assert curves.epoch_mixtures(asked) == round(speech / (2 * seconds))


def test_ablation_shows_what_a_variant_kept_where_it_knows_no_budget() -> None:
    free = [
        record("HRank", 0, [3.0, 3.0], macs_share=0.80),
        record("HRank", 1, [3.0, 3.0], macs_share=0.90),
    ]
    lines = ablation.section(experiment(kind="ablation"), [*RECORDS[:-1], *free])
    assert any("| HRank | 50% | 3.00 ± 0.00 |" in line and "85.0 ± 7.1" in line for line in lines)
    assert any("| sepprune | 50% | 5.25 ± 0.35 |" in line and "49.8%" in line for line in lines)


def test_recovery_has_a_row_for_each_way() -> None:
    lines = recovery.section(experiment(kind="recovery"), RECORDS)
    assert "| pruned | 5.25 ± 0.35 | 3.62 ± 0.18 | 5.47 (1) | 3 |" in lines


def test_published_figures_stand_beside_an_empty_column_until_something_is_measured() -> None:
    cell = find("paper/libri2mix-tdanet")
    lines = published.section(cell, [])
    assert "| tdanet | libri2mix | SepPrune | 13.70 / 13.21 | 1.67 | 4.07 |  |  |  |  |" in lines
    measured = record(
        "sepprune", 0, [13.0], stage="recovered", macs=4_000_000_000, params=1_600_000
    )
    lines = published.section(cell, [measured])
    assert any("| 1.00 / 13.00 | 1.60 | 4.00 | here |" in line for line in lines)


def test_overlap_is_the_jaccard_index_and_its_chance() -> None:
    import torch

    one = {"masks": encoded({"a": torch.tensor([1, 1, 0, 0], dtype=torch.bool)})}
    other = {"masks": encoded({"a": torch.tensor([1, 0, 1, 0], dtype=torch.bool)})}
    assert overlap(one, one)[0] == 1.0
    shared, chance = overlap(one, other)
    assert math.isclose(shared, 1 / 3) and math.isclose(chance, 1 / 3)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ""),
        ([1.0], "1.00 (1)"),
        ([1.0, 2.0], "1.50 ± 0.71"),
        ([1.0, 2.0, 3.0], "2.00 ± 1.00 (3)"),
    ],
)
def test_spread(values: list[float], shown: str) -> None:
    assert spread(values, 2) == shown
