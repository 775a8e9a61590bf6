"""English sentences from a small grammar of ours: as many as wanted, no text of anybody else's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["make_sentences"]

_WORDS: Mapping[str, str] = {
    "det": "the a this that every another her his our their one some my your",
    "adj": (
        "old young quiet noisy broken yellow purple frozen clever gentle hungry wooden heavy "
        "narrow famous simple shiny distant careful bitter warm empty foolish golden rusty "
        "thirsty vague royal smooth jealous cheap dusty enormous tiny"
    ),
    "noun": (
        "farmer teacher doctor painter child sailor neighbour river garden bridge window kettle "
        "bicycle violin engine blanket ticket letter market shadow village mountain kitchen "
        "camera basket pigeon rabbit lemon jacket hammer picture zebra thunder forest island "
        "machine bottle judge giraffe voyage chimney shelf uncle youth"
    ),
    "verb": (
        "carried painted followed repaired measured borrowed noticed answered polished buried "
        "watched counted remembered opened washed visited judged admired pushed crossed hid "
        "found sold broke chose lifted described enjoyed ignored photographed"
    ),
    "went": "walked waited laughed slept shouted danced arrived vanished trembled sang fell froze",
    "adv": (
        "slowly quickly never always usually quietly eagerly badly suddenly thoughtfully again "
        "together yesterday twice"
    ),
    "prep": "near behind under above beside without towards against beyond around through",
    "when": "before after while because although unless until whenever since",
    "num": "two three four five six seven eight nine ten eleven twelve twenty thirty ninety",
    "plural": (
        "apples horses boxes feathers shoes maps branches stories puzzles oranges voices fish "
        "treasures measures teeth knives clouds jars thieves pages"
    ),
    "ask": "why when where how",
    "name": "Anna Peter Zoe George Maria Victor Joyce Hugh Sheila Owen Beth Yusuf",
}
WORDS = {kind: tuple(words.split()) for kind, words in _WORDS.items()}

PATTERNS: tuple[str, ...] = (
    "det adj noun adv verb num adj plural prep det noun",
    "name verb det noun when det adj noun went prep det noun",
    "ask did name and name went prep det adj noun",
    "num plural and num adj plural went adv prep det noun",
    "when det noun went , name adv verb det adj plural",
    "det noun prep det noun verb name and num plural",
    "adv , name and det adj noun verb det noun",
    "name went adv , but det noun verb num adj plural",
)
"""A lower-case word that is a key of ``WORDS`` is drawn; anything else stands as it is."""


def make_sentences(count: int, rng: np.random.Generator) -> list[str]:
    """Draw sentences.

    Args:
        count: How many.
        rng: Where chance comes from.

    Returns:
        Sentences of 8 to 15 words, 2 to 6 seconds when spoken.
    """
    return [_sentence(str(rng.choice(PATTERNS)), rng) for _ in range(count)]


def _sentence(pattern: str, rng: np.random.Generator) -> str:
    words = [str(rng.choice(WORDS[kind])) if kind in WORDS else kind for kind in pattern.split()]
    text = " ".join(words).replace(" ,", ",")
    return text[0].upper() + text[1:] + ("?" if pattern.startswith("ask") else ".")
