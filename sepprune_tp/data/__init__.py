"""Data to search, recover and evaluate on: mixtures in the field's layouts, or made on the fly."""

from .batching import MapStyle, batches
from .mixing import MixtureDataset
from .opening import open_mixtures
from .recordings import SPLITS, load_recordings, prepare_utterance
from .stored import MixtureFiles, StoredMixtures

__all__ = [
    "SPLITS",
    "MapStyle",
    "MixtureDataset",
    "MixtureFiles",
    "StoredMixtures",
    "batches",
    "load_recordings",
    "open_mixtures",
    "prepare_utterance",
]
