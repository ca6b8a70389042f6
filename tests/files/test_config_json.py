"""Conversion of config dataclasses to JSON values and back: round trips, and errors that say which key is wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

import pytest

from smcd_jax.files.config_json import from_dict, to_dict
from tests.errors import refused


@dataclasses.dataclass(frozen=True)
class Part:
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    extra: str = dataclasses.field(default="", metadata={"unless_default": True})


@dataclasses.dataclass(frozen=True)
class Config:
    part: Part = Part()
    other: Part | None = None
    rate: float = 0.5
    steps: int = 3
    shuffle: bool = False


@pytest.mark.parametrize("config", [Config(), Config(Part((), "b", "x"), Part(), 1.0, 0, True)])
def test_a_config_survives_json(config):
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


def test_an_optional_key_is_omitted_at_its_default():
    assert to_dict(Part()) == {"sizes": [1, 2], "kind": "a"}


def test_whole_numbers_are_accepted_for_floats():
    rate = from_dict(Config, {"rate": 2}).rate
    assert (rate, type(rate)) == (2.0, float)


@pytest.mark.parametrize(
    ("values", "argument", "value"),
    [
        ({"stepz": 1}, "stepz", 1),
        ({"part": {"size": 1}}, "part.size", 1),
        ({"part": 3}, "part", 3),
        ({"part": {"sizes": 3}}, "part.sizes", 3),
        ({"part": {"sizes": [1, "2"]}}, "part.sizes[1]", "2"),
        ({"other": {"kind": "c"}}, "other.kind", "c"),
        ({"rate": "1"}, "rate", "1"),
        ({"rate": True}, "rate", True),
        ({"steps": 1.5}, "steps", 1.5),
        ({"shuffle": 1}, "shuffle", 1),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(values, argument, value):
    with refused(argument, value=value):
        from_dict(Config, values)
    with refused(argument, path="model.json", value=value):
        from_dict(Config, values, path="model.json")
