"""Channel labels by themselves: what goes together, and what may not go."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepprune_tp.graph.labels import (
    Channels,
    LabelStore,
    Place,
    constant_along,
    merge_along,
    unite_pairs,
    varying_dims,
)

LABELS = 8
label = st.integers(0, LABELS)
unions = st.lists(st.tuples(label, label), max_size=12)


def channels() -> Channels:
    made = Channels()
    made.fresh(LABELS)
    return made


def components(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """What goes together, by the plainest way: 0 is no channel."""
    parts = [{n} for n in range(1, LABELS + 1)]
    for pair in pairs:
        if 0 not in pair:
            joined = [part for part in parts if part & set(pair)]
            parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return parts


def found_in(made: Channels) -> list[set[int]]:
    parts: dict[int, set[int]] = {}
    for n in range(1, LABELS + 1):
        parts.setdefault(made.find(n), set()).add(n)
    return list(parts.values())


def same(one: list[set[int]], other: list[set[int]]) -> bool:
    return sorted(map(sorted, one)) == sorted(map(sorted, other))


@settings(deadline=None)
@given(unions)
def test_unions_join_components_and_no_others(pairs: list[tuple[int, int]]) -> None:
    made = channels()
    for one, other in pairs:
        made.unite(one, other)
    assert same(found_in(made), components(pairs))
    assert made.roots().tolist() == [made.find(n) for n in range(LABELS + 1)]
    meetings = list(zip(made.meetings.one, made.meetings.other, strict=True))
    assert same(components(meetings), components(pairs))  # they explain every component
    assert len(meetings) == LABELS - len(found_in(made))  # and none is one too many


@settings(deadline=None)
@given(unions, st.lists(st.tuples(st.integers(0, 12), label), max_size=4), st.booleans())
def test_a_reason_holds_for_the_whole_component_however_it_comes_about(
    pairs: list[tuple[int, int]], protected: list[tuple[int, int]], gates: bool
) -> None:
    made = channels()
    for step, (one, other) in enumerate([*pairs, (0, 0)]):
        for when, n in protected:
            if when == step or (when > len(pairs) and step == len(pairs)):
                (made.leave_ungated if gates else made.protect)([n], "why")
        made.unite(one, other)
    for part in components(pairs):
        due = any(n in part for when, n in protected)
        for n in part:
            assert (made.reason(n) is not None) == (due and not gates)
            assert (made.ungated(n) is not None) == (due and gates)
            protector = made.protector(n)
            assert protector is None or protector in part & {n for _, n in protected}
    assert made.reason(0) is None and made.ungated(0) is None


def test_the_first_reason_is_kept_and_fixed_channels_have_one() -> None:
    made = channels()
    made.protect([3], "first")
    made.protect([3], "second")
    assert made.reason(3) == "first" and made.reason(2) is None
    fixed = made.fixed("output")
    assert fixed == LABELS + 1 and made.reason(fixed) == "output"
    assert made.fixed_reasons == {fixed: "output"} and made.protector(fixed) == fixed
    made.unite(1, fixed)
    assert made.reason(1) == "output" and made.protector(1) == fixed


def test_meetings_say_where() -> None:
    made = channels()
    made.meet_at(Place("add", "masker", "net.py:3"))
    made.unite(1, 2)
    made.meet_at(Place("cat"))
    made.unite(2, 1)  # nothing new
    made.unite(3, 2)
    assert [str(made.places[n]) for n in made.meetings.place] == [
        "'add' in 'masker' (net.py:3)",
        "'cat' in the model",
    ]


@settings(deadline=None)
@given(st.lists(label, min_size=1, max_size=5))
def test_all_labels_of_a_tensor_become_one(members: list[int]) -> None:
    made = channels()
    made.unite_all(torch.tensor(members))
    present = [n for n in members if n]
    assert same(found_in(made), components([(present[0], n) for n in present]))


tensors = st.integers(1, 3).flatmap(
    lambda rows: st.integers(1, 3).flatmap(
        lambda columns: st.lists(
            st.lists(label, min_size=columns, max_size=columns), min_size=rows, max_size=rows
        )
    )
)


@settings(deadline=None)
@given(tensors, st.integers(0, 1))
def test_merging_unites_what_meets_at_an_index(rows: list[list[int]], axis: int) -> None:
    labels, made = torch.tensor(rows), channels()
    merged = merge_along(labels, axis, made)
    lines = [[n for n in line.tolist() if n] for line in labels.movedim(axis, 0)]
    assert same(found_in(made), components((line[0], n) for line in lines for n in line))
    assert merged.shape == (len(lines),)
    for line, n in zip(lines, merged.tolist(), strict=True):
        assert n in line if line else n == 0


@settings(deadline=None)
@given(tensors, tensors)
def test_pairs_meet_element_by_element(one: list[list[int]], other: list[list[int]]) -> None:
    first, second = torch.tensor(one)[:, None, :, None], torch.tensor(other)[None, :, None, :]
    shape = torch.broadcast_shapes(first.shape, second.shape)
    made = channels()
    unite_pairs(made, first, second, shape)
    pairs = zip(
        first.expand(shape).flatten().tolist(), second.expand(shape).flatten().tolist(), strict=True
    )
    assert same(found_in(made), components(pairs))


@settings(deadline=None)
@given(tensors)
def test_axes_along_which_labels_change(rows: list[list[int]]) -> None:
    labels = torch.tensor(rows)
    for dim in range(2):
        lines = [{n for n in line.tolist() if n} for line in labels.movedim(dim, -1)]
        assert constant_along(labels, dim) == all(len(line) <= 1 for line in lines)
    if int((labels > 0).sum()) and all(labels.flatten() > 0):
        assert varying_dims(labels) == [d for d in range(2) if not constant_along(labels, d)]


def test_labels_follow_the_storage_of_a_tensor() -> None:
    store, data = LabelStore(), torch.zeros(4, 6)
    assert store.get(data) is None
    store.set(data, torch.arange(1, 5)[:, None])
    view = data[1:3].t()[::2]
    labels = store.get(view)
    assert labels is not None and labels.tolist() == [[2, 3]] * 3
    store.set(view, 9)
    whole = store.get(data)
    assert whole is not None and whole[1].tolist() == [9, 2, 9, 2, 9, 2]
    wide = torch.zeros(3, 1).expand(3, 4)
    store.set(wide, torch.tensor([[5], [6], [7]]))
    spread = store.get(wide)
    assert spread is not None and spread.tolist() == [[5] * 4, [6] * 4, [7] * 4]
    bytes_of = store.get(torch.view_as_complex(data.view(4, 3, 2)))
    assert bytes_of is not None and bytes_of[1].tolist() == [9, 9, 9]


def test_labels_end_with_their_data() -> None:
    store, data = LabelStore(), torch.zeros(3)
    store.set(data, 1)
    place = data.untyped_storage()._cdata
    del data
    store.collect()
    assert place not in store._shadows


@pytest.mark.parametrize("size", [5000])
def test_dead_storages_do_not_pile_up(size: int) -> None:
    store = LabelStore()
    for _ in range(size):
        store.set(torch.zeros(2), 1)
    assert len(store._shadows) <= 4200
