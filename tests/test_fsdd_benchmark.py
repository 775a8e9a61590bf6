"""The FSDD benchmark's own parts: same norm, true records and tables, a run of it in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("asteroid", reason="the benchmark needs the extra 'asteroid'")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks/ is not installed", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

import _fsdd_dense as dense  # noqa: E402
from _fsdd_ahead import best_baseline, lead  # noqa: E402
from _fsdd_compare import Comparison, Settings, WaitingError, contenders  # noqa: E402
from _fsdd_table import page  # noqa: E402
from _records import Records  # noqa: E402

from sepprune_tp import load_pruned, profile  # noqa: E402
from sepprune_tp.errors import CheckpointError  # noqa: E402
from sepprune_tp.recovery import fingerprint  # noqa: E402


def record(stage: str, seed: int, si_sdri: float, criterion: str = "sepprune") -> dict[str, Any]:
    return {
        "experiment": "fsdd",
        "model": "ConvTasNet",
        "criterion": criterion,
        "budget": 1.0 if stage == "dense" else 0.5,
        "seed": seed,
        "stage": stage,
        "repair": "none",
        "si_sdri": si_sdri,
        "sdri": si_sdri + 0.25,
        "params": 1000,
        "macs": 2_000_000,
        "macs_share": 0.499,
        "seconds": 3.0,
        "by_pair": {"a + b": {"si_sdri": 4.5, "mixtures": 7}},
        "machine": "a machine",
        "versions": {"torch": "2"},
        "date": "2026-01-02T03:04:05+00:00",
        "test_mixtures": 150,
        "test_seconds": 3.0,
    }


def test_fast_norm_is_the_same_layer_and_is_taken_back() -> None:
    model = dense.build().eval().double()
    mixture = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.add_(0.3 * torch.linspace(-1, 1, parameter.numel()))
        original = dense.GlobLN.forward
        before = model(mixture)
        with dense.fast_global_norm():
            assert dense.GlobLN.forward is not original
            torch.testing.assert_close(model(mixture), before, atol=1e-9, rtol=0)
        assert dense.GlobLN.forward is original
        assert torch.equal(model(mixture), before)


def test_build_follows_its_seed() -> None:
    state = torch.get_rng_state()
    first, again, other = (dense.build(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_saved_model_comes_back(tmp_path: Path) -> None:
    model, path = dense.build(seed=3).eval(), tmp_path / "model.safetensors"
    dense.save(model, path, {"model": "ConvTasNet", "model_args": dense.MODELS["ConvTasNet"]})
    loaded, _ = dense.load(path)
    mixture = torch.ones(1, 1000)
    with torch.no_grad():
        assert torch.equal(loaded(mixture), model(mixture))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"fsdd\.py train"):
        dense.load(path)


def test_records_replace_those_of_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.json"
    records = Records(path)
    records.replace(record("dense", 0, 8.0), record("pruned", 0, 5.0))
    records.replace(record("pruned", 0, 6.0), record("pruned", 1, 7.0))
    assert [r["si_sdri"] for r in Records(path).items] == [8.0, 6.0, 7.0]
    assert Records(path).find(stage="pruned", seed=1) == [record("pruned", 1, 7.0)]
    assert json.loads(path.read_text()) == records.items


def test_processes_do_not_lose_each_others_records(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    one, other = Records(path), Records(path)
    one.replace(record("dense", 0, 8.0))
    other.replace(record("pruned", 0, 5.0))
    one.replace(record("pruned", 1, 6.0))
    assert [r["si_sdri"] for r in Records(path).items] == [8.0, 5.0, 6.0]
    assert len(other.items) == 2
    other.read()
    assert len(other.items) == 3


def runs() -> list[dict[str, Any]]:
    found = [record("dense", 0, 8.0, "none")]
    for seed, value in ((0, 5.0), (1, 7.0)):
        found += [record("pruned", seed, value), record("recovered", seed, value + 1)]
        found.append(record("pruned", seed, value - 2.0, "LAMPImportance/local"))
        found.append(record("pruned", seed, value - 1.5, "RandomImportance"))
        found.append(record("pruned", seed, value + 3, "paper"))
        found.append(record("recovered", seed, value + 0.75, "LAMPImportance/local"))
    found.append(record("recovered", 0, 7.5, "RandomImportance"))
    found.append({**record("pruned", 0, 7.4), "repair": "least squares"})
    found.append({**record("pruned", 0, 7.6, "LAMPImportance/local"), "repair": "least squares"})
    for one in found:
        if one["stage"] == "recovered":
            one["recovery_steps"] = 7
    return found


def test_page_states_means_and_spreads() -> None:
    text = page(runs())
    assert "Dense: 8.00 dB SI-SDRi, 8.25 dB SDRi, 1,000 parameters, 2.0 M MACs" in text
    row = "| 50% | sepprune | 2 | 6.00 ± 1.41 | 7.00 ± 1.41 | 7.40 (1) |  | 1,000 | 49.9% |"
    assert f"{row} 3 | 3 | 3 |" in text
    assert "| 50% | RandomImportance | 2 | 4.50 ± 1.41 | 7.50 (1) |  |  | 1,000 |" in text
    assert "training of 7 steps" in text
    assert "a + b 4.50 (7)" in text


def test_page_says_whether_the_targets_are_met() -> None:
    text = page(runs())
    met = "| 50% | sepprune | as pruned | 2 | 6.00 | 4.50 (RandomImportance) "
    assert f"{met}| +1.50 ± 0.00 | 1.5 | met |" in text
    # the best of the first seed was recovered on no other: it is compared on that one
    missed = "| recovered | 1 | 6.00 | 7.50 (RandomImportance) | -1.50 | 0.3 | missed by 1.80 |"
    assert missed in text
    assert "| both reconstructed | 1 | 7.40 | 7.60 (LAMPImportance/local) | -0.20 | | |" in text


def test_page_leaves_out_what_is_of_other_weights() -> None:
    found = runs()
    for one in found:
        one["weights_sha256"] = "new"
    old = {**record("pruned", 2, 99.0, "FPGMImportance"), "weights_sha256": "old"}
    assert "FPGMImportance" not in page([*found, old])
    assert "FPGMImportance" in page([*found, {**old, "weights_sha256": "new"}])


def test_best_baseline_is_chosen_on_the_first_seed_and_then_by_mean() -> None:
    found = runs()
    assert best_baseline(found, 0.5, ("pruned", "none")) == ("RandomImportance", {0: 3.5, 1: 5.5})
    assert best_baseline(found, 0.5, ("recovered", "none")) == ("RandomImportance", {0: 7.5})
    assert best_baseline(found, 0.25, ("pruned", "none")) is None
    better = record("pruned", 1, 9.0, "LAMPImportance/local")  # by mean, not on the first seed
    found = [r for r in found if (r["criterion"], r["seed"]) != (better["criterion"], 1)]
    best = best_baseline([*found, better], 0.5, ("pruned", "none"))
    assert best == ("LAMPImportance/local", {0: 3.0, 1: 9.0})
    assert best_baseline([*found, better], 0.5, ("pruned", "none"), {0}) == (
        "RandomImportance",
        {0: 3.5},
    )


def test_a_lead_is_of_the_seeds_that_both_have() -> None:
    found = lead(runs(), "sepprune", 0.5, ("pruned", "least squares"), ("pruned", "none"))
    assert found is not None
    assert (found.ours, found.theirs, found.seeds, found.spread) == (7.4, 3.5, 1, None)
    assert lead(runs(), "sepprune", 0.25, ("pruned", "none"), ("pruned", "none")) is None


def test_a_family_is_compared_with_searches_of_its_own() -> None:
    found = runs()
    for repair, own, shared in (("none", 3.0, 2.5), ("least squares", 7.0, 6.9)):
        found.append({**record("pruned", 0, own, "sepprune/lookahead"), "repair": repair})
        found.append({**record("pruned", 0, shared, "sepprune/family"), "repair": repair})
    assert "| ConvTasNet | 50% | 1 | 3.00 | 2.50 | -0.50 | 7.00 | 6.90 | -0.10 |" in page(found)
    assert "One search for every budget" not in page(runs())


def test_contenders_are_close_to_the_best_and_enough() -> None:
    scored = {"a": 1.0, "b": 5.0, "c": 4.8, "d": 4.0}
    assert contenders(scored, 0.3, 1) == ["b", "c"]
    assert contenders(scored, 0.3, 3) == ["b", "c", "d"]
    assert contenders(scored, float("inf"), 0) == ["b", "c", "d", "a"]
    assert contenders({}, 0.3, 3) == []


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in the layout of the data set."""
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("lightning")
    pytest.importorskip("fast_bss_eval")
    folder = tmp_path_factory.mktemp("fsdd")
    (folder / "recordings").mkdir()
    noise = np.random.default_rng(0)
    for speaker in ("anna", "bela"):
        for index in (0, 1, 5, 6, 8, 9):
            path = folder / "recordings" / f"0_{speaker}_{index}.wav"
            soundfile.write(path, 0.1 * noise.standard_normal(9000), 8000)
    return folder


def comparison(recordings: Path, folder: Path, **settings: Any) -> Comparison:
    sizes = {"n_filters": 8, "bn_chan": 12, "hid_chan": 16, "skip_chan": 6}
    model = dense.build("ConvTasNet", **sizes, n_blocks=2, n_repeats=1).eval()
    given = {"search_steps": 2, "search_seconds": 0.5, "gradient_mixtures": 2, "recovery_steps": 1}
    return Comparison(
        "ConvTasNet",
        model,
        recordings,
        dense.test_set(recordings, 2),
        Records(folder / "records.json"),
        folder / "models",
        Settings(**{**given, **settings}),
        {"weights_sha256": "w"},
    )


def test_a_run_in_small(recordings: Path, tmp_path: Path) -> None:
    run = comparison(recordings, tmp_path, recover_least=1, recover_margin=0.0)
    run.score_dense()
    magnitude, taylor = "GroupMagnitudeImportance", "GroupTaylorImportance/local"
    criteria = ["sepprune", "paper", magnitude, taylor]
    for criterion in criteria:
        run.prune(criterion, 0.5, 0)
    with pytest.raises(WaitingError, match="2 baselines"):
        run.to_recover(criteria, 0.5, 1)
    assert run.to_recover(criteria, 0.5, 0) == [magnitude, taylor]
    recovered = {c: run.recover(c, 0.5, 0) for c in criteria}
    better = max((magnitude, taylor), key=lambda c: recovered[c]["si_sdri"])
    assert run.to_recover(criteria, 0.5, 1) == [better]
    written = run.records.items
    assert [r["stage"] for r in written] == ["dense", *["pruned"] * 4, *["recovered"] * 4]
    assert {r["repair"] for r in written[1:]} == {"none"}
    for one in written[1:]:
        assert one["macs_share"] <= 0.5
        name = f"ConvTasNet_{one['criterion'].replace('/', '-')}_0.5_0_{one['stage']}.safetensors"
        model = load_pruned(tmp_path / "models" / name)
        assert profile(model, run.example).macs == one["macs"]
        same = fingerprint(model) == one["pruned_sha256"]
        assert same == (one["stage"] == "pruned")  # recovery changes the weights
    assert len({one["pruned_sha256"] for one in written[1:]}) == 4

    marked = [{**one, "mark": place} for place, one in enumerate(written)]
    (tmp_path / "records.json").write_text(json.dumps(marked))
    resumed = comparison(recordings, tmp_path)
    resumed.score_dense()
    for criterion in criteria:
        resumed.recover(criterion, 0.5, 0)
    assert Records(tmp_path / "records.json").items == marked  # nothing was done again
    folder = tmp_path / "models"
    (folder / f"ConvTasNet_{magnitude}_0.5_0_recovered.safetensors").rename(
        folder / f"ConvTasNet_{magnitude}_0.5_0_pruned.safetensors"
    )
    with pytest.raises(RuntimeError, match="not the model of its record"):
        comparison(recordings, tmp_path, recovery_steps=2).recover(magnitude, 0.5, 0)
    repaired = resumed.recover("sepprune", 0.5, 0, "least squares")
    rebuilt = resumed.records.find(stage="pruned", repair="least squares")
    assert [r["criterion"] for r in rebuilt] == ["sepprune"]
    assert repaired["pruned_sha256"] == recovered["sepprune"]["pruned_sha256"]
    assert (folder / "ConvTasNet_sepprune_0.5_0_reconstructed.safetensors").exists()
    assert resumed.recover("sepprune", 0.5, 0, "least squares") == repaired
    # a criterion without randomness is scored once for all seeds
    second = resumed.prune(magnitude, 0.5, 1)
    assert second["pruned_sha256"] == recovered[magnitude]["pruned_sha256"]
    other = comparison(recordings, tmp_path, search_steps=3)
    assert other.prune("sepprune", 0.5, 0)["settings"]["search_steps"] == 3
