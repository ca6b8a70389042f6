"""Owns what is said of a scene: one sentence that names every object and what it does."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.sprites.rng import Draws


def caption(labels: Sequence[str], phrases: Sequence[str], draws: Draws, *, crossing: bool) -> str:
    """The sentence, without a full stop: "a red car moves to the right while a cat grows".

    Args:
        labels: one per object, such as "red car".
        phrases: what each does, such as "moves to the right".
        draws: choose between ways to say the same.
        crossing: the first two objects cross.
    """
    clauses = [f"{with_article(label)} {phrase}" for label, phrase in zip(labels, phrases, strict=True)]
    if crossing:
        clauses[:2] = [f"{clauses[0]} and crosses {with_article(labels[1])} that {phrases[1]}"]
    if len(clauses) == 2:
        return draws.pick((" while ", " and ")).join(clauses)
    return " and ".join([", ".join(clauses[:-1]), clauses[-1]] if len(clauses) > 1 else clauses)


def with_article(label: str) -> str:
    """The label with "a" or "an", by sound: "an owl", "a unicorn"."""
    vowel = label[0] in "aeiou" and not label.startswith("uni")
    return f"{'an' if vowel else 'a'} {label}"
