"""Groups from components by themselves: who is root, what is one group, and why one may not go."""

from __future__ import annotations

import torch
from torch import nn

from sepprune_tp.graph.assembly import ChannelSet, Site, assemble
from sepprune_tp.graph.labels import Channels


def known(count: int) -> Channels:
    channels = Channels()
    channels.fresh(count)
    return channels


def maker(*components: int) -> Site:
    return Site(nn.Conv1d(1, 1, 1), "out", torch.tensor(components), torch.tensor(components))


def reader(*components: int) -> Site:
    values = torch.tensor(components)
    return Site(nn.Conv1d(1, 1, 1), "in", values, values, consumes=True)


def groups(*sites: Site, channels: Channels | None = None) -> list[ChannelSet]:
    return assemble(list(sites), channels or known(9), set())


def test_a_layer_and_its_readers_are_a_group() -> None:
    one, two = maker(1, 2, 3), reader(1, 2, 3)
    (group,) = groups(one, two, reader(7, 8))
    assert group.root is one and group.components == [1, 2, 3] and group.size == 3
    assert group.sites == [one, two] and group.reason is None and group.ungated is None


def test_no_channel_is_no_component() -> None:
    site = maker(0, 2, 0, 3, 2)
    assert site.members() == {2: 1, 3: 3} and site.positions() == {2: [1, 4], 3: [3]}
    assert site.where([2]).tolist() == [1, 4] and site.where([9]).tolist() == []
    (group,) = groups(site, reader(2, 3))
    assert group.components == [2, 3] and group.reason is None
    site.cut(torch.tensor([1, 2]))
    assert site.members() == {2: 0} and site.positions() == {2: [0]}


def test_the_root_holds_the_most_components_one_channel_each_if_it_can() -> None:
    small, twice, large = maker(1, 2), maker(1, 1, 2, 2, 3, 3), maker(3, 2, 1)
    (group,) = groups(small, twice, large, reader(1, 2, 3))
    assert group.root is large and group.components == [3, 2, 1]


def test_what_remains_of_a_layer_is_a_group_that_may_not_go() -> None:
    first, second = maker(1, 2, 3, 4), maker(3, 4, 5)
    whole, rest = groups(second, first, reader(1, 2, 3, 4), reader(3, 4, 5))
    assert whole.root is first and whole.reason is None
    assert rest.root is second and rest.components == [5]
    assert rest.reason == "part of its channels belongs to another group"
    # of two that remain, the one with more left is first, though it is not the larger
    most, less = maker(1, 2, 3, 4, 5, 6), maker(1, 2, 3, 4, 7)
    found = groups(most, less, maker(1, 8, 9), reader(1, 2, 3, 4, 5, 6))
    assert [group.components for group in found] == [[1, 2, 3, 4, 5, 6], [8, 9], [7]]


def test_a_group_that_nothing_reads_may_not_go() -> None:
    (group,) = groups(maker(1, 2))
    assert group.reason == "no layer with weights reads its channels"
    channels = known(9)
    channels.leave_ungated([2], "it is pooled")
    (group,) = groups(maker(1, 2), channels=channels)
    assert group.ungated == "it is pooled" and group.reason is None  # it can be cut all the same


def test_a_single_channel_may_not_go() -> None:
    (alone,) = groups(maker(1), reader(1))
    assert alone.reason == "it is a single channel"
    (coupled,) = groups(maker(1, 1), reader(1, 1))
    assert coupled.reason == "all of its channels are coupled into one"


def test_no_layer_is_left_without_channels() -> None:
    (group,) = groups(maker(1, 2), reader(1, 2), reader(2))
    assert group.reason == "it would leave a layer without channels"
    (group,) = groups(maker(1, 2), reader(1, 2), reader(2, 7))  # 7 stays
    assert group.reason is None


def test_a_reason_of_one_channel_holds_for_the_group() -> None:
    channels = known(9)
    channels.protect([2], "it is an output of the model")
    (group,) = groups(maker(1, 2), reader(1, 2), channels=channels)
    assert group.reason == "it is an output of the model"
