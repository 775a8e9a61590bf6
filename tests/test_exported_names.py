"""The public surface: names, the contract's signatures, and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import sepprune_tp


def test_all_is_sorted_and_importable() -> None:
    names = sepprune_tp.__all__
    assert names == sorted(names)
    assert all(hasattr(sepprune_tp, name) for name in names)


def test_nothing_public_is_left_out() -> None:
    modules = {name for name, value in vars(sepprune_tp).items() if inspect.ismodule(value)}
    public = {name for name in vars(sepprune_tp) if not name.startswith("_")} - modules
    assert public <= {*sepprune_tp.__all__, "install"}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("GateSet", ["model", "example_inputs", "scope", "kind"]),
        ("learn_gates", ["gates", "batches", "loss", "budget", "steps", "lr", "seed"]),
        ("SepPruneImportance", ["gates"]),
        ("SepPrunePruner", ["model", "example_inputs", "importance", "pruning_ratio"]),
        ("profile", ["model", "example_inputs"]),
        ("save_pruned", ["model", "path"]),
        ("load_pruned", ["path"]),
    ],
)
def test_contract(name: str, parameters: list[str]) -> None:
    signature = inspect.signature(getattr(sepprune_tp, name))
    assert list(signature.parameters)[: len(parameters)] == parameters


@pytest.mark.parametrize("name", ["graph.channel_graph", "gates.gate_set", "pruner"])
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"sepprune_tp.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0
