"""Captions of scenes: one sentence that names every object and its motion."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.sprites.rng import ClipRng


def caption(labels: Sequence[str], phrases: Sequence[str], rng: ClipRng, *, crossing: bool) -> str:
    """Returns the caption without a full stop: "a red car moves to the right while a cat grows".

    Args:
        labels: Label per object, such as "red car".
        phrases: Motion per object, such as "moves to the right".
        rng: Random numbers that choose between wordings.
        crossing: Whether the first two objects cross.
    """
    clauses = [f"{with_article(label)} {phrase}" for label, phrase in zip(labels, phrases, strict=True)]
    if crossing:
        clauses[:2] = [f"{clauses[0]} and crosses {with_article(labels[1])} that {phrases[1]}"]
    if len(clauses) == 2:
        return rng.pick((" while ", " and ")).join(clauses)
    return " and ".join([", ".join(clauses[:-1]), clauses[-1]] if len(clauses) > 1 else clauses)


def with_article(label: str) -> str:
    """Prefixes a label with "a" or "an" by its sound: "an owl", "a unicorn"."""
    vowel = label[0] in "aeiou" and not label.startswith("uni")
    return f"{'an' if vowel else 'a'} {label}"
