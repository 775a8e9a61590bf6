"""Drive espeak-ng by ctypes in a process of its own: sentences in, samples out.

Run as a file, never imported: espeak-ng keeps global state (its noise generator among it), so
the same audio comes out only from a fresh process that speaks the same lines in the same order.

Reads a JSON object from standard input, ``{"seed": int, "output": path, "lines": [{"voice",
"text", "pitch", "rate"}, ...]}``, and writes an ``.npz`` with ``sample_rate`` in Hz, ``samples``
(int16, all lines end to end) and ``lengths`` (samples per line).

Source of the interface: espeak-ng 1.52, ``src/include/espeak-ng/speak_lib.h``.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import espeakng_loader  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np

SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: call back in espeak_Synth itself
UTF8 = 1  # espeakCHARS_UTF8
RATE, PITCH = 1, 3  # espeak_PARAMETER
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Synthesiser:
    """espeak-ng, initialised once for this process.

    Attributes:
        sample_rate: Samples per second of what ``speak`` returns (22050 Hz).
    """

    def __init__(self, seed: int) -> None:
        """Load the library.

        Args:
            seed: Seed of espeak-ng's noise generator.

        Raises:
            RuntimeError: If espeak-ng does not start (its data folder is missing or broken).
        """
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate = int(self._lib.espeak_Initialize(SYNCHRONOUS, 0, data, 0))
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak_Initialize failed with {self.sample_rate} on {data!r}")
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._chunks: list[np.ndarray] = []
        self._callback = CALLBACK(self._collect)  # kept: the library holds only the pointer
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, voice: str, text: str, pitch: int, rate: int) -> np.ndarray:
        """Speak one line.

        Args:
            voice: Name as espeak-ng takes it, for example ``en+f2``.
            text: What to say, in English.
            pitch: 0 to 100, 50 is the voice's own.
            rate: Words per minute.

        Returns:
            The samples, int16, shape (T,).

        Raises:
            RuntimeError: If espeak-ng refuses the voice or the text.
        """
        self._chunks.clear()
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        self._lib.espeak_SetParameter(PITCH, pitch, 0)
        self._lib.espeak_SetParameter(RATE, rate, 0)
        line = text.encode()
        status = self._lib.espeak_Synth(
            line, ctypes.c_size_t(len(line) + 1), 0, 0, 0, UTF8, None, None
        )
        if status != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng said nothing for {text!r} with {voice!r} ({status})")
        return np.concatenate(self._chunks)


def speak_all(lines: Sequence[Mapping[str, Any]], seed: int, output: str) -> None:
    """Speak every line in order and write the samples to ``output`` (.npz)."""
    synthesiser = Synthesiser(seed)
    spoken = [synthesiser.speak(**line) for line in lines]
    with open(output, "wb") as file:
        np.savez(
            file,
            sample_rate=np.int64(synthesiser.sample_rate),
            samples=np.concatenate(spoken),
            lengths=np.array([len(samples) for samples in spoken], dtype=np.int64),
        )


if __name__ == "__main__":
    speak_all(**json.load(sys.stdin))
