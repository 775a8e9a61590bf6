"""The channel graph: which channels of which layers go together."""

from .channel_graph import ChannelGraph, Scope, channel_graph
from .group import ChannelGroup

__all__ = ["ChannelGraph", "ChannelGroup", "Scope", "channel_graph"]
