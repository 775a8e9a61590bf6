"""The channel graph: which channels of which layers go together."""

from .channel_graph import ChannelGraph
from .context import channel_graph, is_lent
from .group import ChannelGroup
from .scope import Scope

__all__ = ["ChannelGraph", "ChannelGroup", "Scope", "channel_graph", "is_lent"]
