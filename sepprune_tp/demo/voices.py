"""The speakers of the demo: espeak-ng voice variants that differ as people do.

espeak-ng 1.52 has 104 variants. Near-duplicates (``steph2``, ``iven3``, ...), whispers and robots
are left out. Most of the male ones share a fundamental frequency near 103 Hz, so each speaker
also has a pitch of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sepprune_tp.errors import InputError, require

__all__ = ["TEST_VOICES", "TRAIN_VOICES", "Voice", "available_variants", "check_voices"]


@dataclass(frozen=True)
class Voice:
    """One speaker.

    Attributes:
        variant: Name of an espeak-ng voice variant (a file in its ``voices/!v`` folder).
        sex: ``f`` or ``m``, as the voice sounds.
        pitch: 0 to 100; 50 is the variant's own.
        language: The accent, as espeak-ng names it.
    """

    variant: str
    sex: str
    pitch: int = 50
    language: str = "en-us"

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.sex not in ("f", "m"):
            raise InputError(f"Voice.sex is {self.sex!r}; allowed values: 'f', 'm'.")
        if not 0 <= self.pitch <= 100:
            raise InputError(f"Voice.pitch is {self.pitch}; it must lie between 0 and 100.")

    @property
    def name(self) -> str:
        """The name that espeak-ng takes, such as ``en-us+f2``."""
        return f"{self.language}+{self.variant}"

    @property
    def rate(self) -> int:
        """Words per minute, 150 to 190: fixed for a speaker, varied between speakers."""
        return 150 + zlib.crc32(self.variant.encode()) % 41


TRAIN_VOICES: tuple[Voice, ...] = (
    Voice("Alicia", "f", 45),
    Voice("Andrea", "f", 55, "en"),
    Voice("anika", "f", 40),
    Voice("aunty", "f", 50, "en-gb-scotland"),
    Voice("belinda", "f", 55),
    Voice("f1", "f", 50),
    Voice("f2", "f", 50, "en"),
    Voice("f4", "f", 62),
    Voice("f5", "f", 58, "en"),
    Voice("grandma", "f", 45, "en"),
    Voice("quincy", "f", 35),
    Voice("steph", "f", 55, "en"),
    Voice("Nguyen", "f", 65),
    Voice("klatt3", "m", 60),
    Voice("Andy", "m", 45),
    Voice("Denis", "m", 60, "en"),
    Voice("Diogo", "m", 40),
    Voice("Gene2", "m", 55),
    Voice("Hugo", "m", 50, "en"),
    Voice("Jacky", "m", 65),
    Voice("Lee", "m", 55, "en-gb-scotland"),
    Voice("Marco", "m", 50),
    Voice("Mario", "m", 35),
    Voice("Michael", "m", 60),
    Voice("RicishayMax2", "m", 45, "en"),
    Voice("adam", "m", 70),
    Voice("antonio", "m", 40),
    Voice("boris", "m", 60),
    Voice("ed", "m", 30, "en"),
    Voice("iven", "m", 50),
    Voice("m1", "m", 62, "en"),
    Voice("m4", "m", 50),
    Voice("m7", "m", 45, "en"),
    Voice("marcelo", "m", 65),
    Voice("norbert", "m", 45),
    Voice("pedro", "m", 35, "en"),
    Voice("travis", "m", 55),
    Voice("victor", "m", 50, "en-gb-scotland"),
)
"""38 speakers to train on, 13 female and 25 male."""

TEST_VOICES: tuple[Voice, ...] = (
    Voice("Annie", "f", 75),
    Voice("f3", "f", 50, "en"),
    Voice("linda", "f", 57),
    Voice("shelby", "f", 45),
    Voice("Alex", "m", 57),
    Voice("gustave", "m", 38, "en"),
    Voice("m3", "m", 25),
    Voice("rob", "m", 75, "en-gb-scotland"),
)
"""8 speakers to test on; no variant in common with ``TRAIN_VOICES``.

Four male voices from 85 to 125 Hz, four female ones from 175 to 275 Hz, each 10 % or more from the
next: two espeak-ng voices of one fundamental frequency share their intonation too, and are closer
than two people are.
"""


def available_variants() -> frozenset[str]:
    """List the voice variants of the installed espeak-ng.

    Returns:
        Their names.

    Raises:
        MissingExtraError: If ``espeakng-loader`` is not installed.
    """
    loader = require("espeakng_loader", "demo", "Synthesising speech for the demo")
    folder = Path(loader.get_data_path()) / "voices" / "!v"
    return frozenset(path.name for path in folder.iterdir() if path.is_file())


def check_voices(voices: Iterable[Voice]) -> None:
    """Refuse voices that espeak-ng lacks: it reports success for an unknown variant.

    Args:
        voices: Speakers to look up.

    Raises:
        InputError: If a variant is unknown, or if two speakers have the same variant.
        MissingExtraError: If ``espeakng-loader`` is not installed.
    """
    names = [voice.variant for voice in voices]
    unknown = sorted(set(names) - available_variants())
    if unknown:
        raise InputError(
            f"espeak-ng has no voice variant {', '.join(map(repr, unknown))} (it would speak with "
            "its default voice without saying so). sepprune_tp.demo.voices.available_variants() "
            "lists the names; upper and lower case count."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"Two speakers have the voice variant {', '.join(map(repr, repeated))}; give each its "
            "own, or a mixture could hold the same voice twice."
        )
