"""Models as files that run without this package; see :func:`export_model`."""

from .attention import register_attention as _register_attention
from .export import Exported, export_model
from .formats import FORMATS, format_of

_register_attention()

__all__ = ["FORMATS", "Exported", "export_model", "format_of"]
