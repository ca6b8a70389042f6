"""Tables in README, model card and docs show the numbers in docs/figures; the ablation compares equal budgets."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path

import pytest

from configs.small import ablation as small_ablation
from configs.tiny import ablation, stage1_object

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("figures", ROOT / "launch" / "figures.py")
figures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(figures)


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


@pytest.mark.parametrize("path", figures.DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_show_the_numbers_of_the_json(path):
    blocks = list(figures._BLOCK.finditer(path.read_text(encoding="utf-8")))
    assert blocks
    for block in blocks:
        assert numbers(block[0]) == numbers(f"{block[1]}{figures.table(block[2])}{block[3]}")
        assert len(numbers(block[0])) > 1


def test_a_cell_shows_the_mean_and_each_seed_and_a_missing_variant_is_marked():
    evaluations = json.loads((figures.FIGURES / "ablation_tiny.json").read_text())
    made = {}
    for seed, score in enumerate((0.5, 0.7)):
        for suffix in ("", "_guidance_off"):
            made[f"zc_gca_{seed}{suffix}"] = copy.deepcopy(evaluations[f"zc_gca_0{suffix}"])
            made[f"zc_gca_{seed}{suffix}"]["metrics"]["ao-sprite-detector-1"]["value"] = score
    lines = figures._ablation_table(made, variants=figures.VARIANTS).splitlines()[2:]
    rows = dict(zip(figures.VARIANTS, [line.strip("| ").split(" | ")[1:] for line in lines], strict=True))
    assert rows["zc_gca"][:2] == ["0.6 (0.5, 0.7)"] * 2
    assert set(rows["zc"]) == {"not run"}
    assert set(rows) == set(ablation.VARIANTS)
    assert set(figures.SMALL_VARIANTS) == set(small_ablation.VARIANTS)


def test_joint_training_sees_as_many_frames_as_both_stages():
    frames = lambda config: config.run.steps * config.data.batch_size * config.data.frames  # noqa: E731
    stage_1 = frames(stage1_object.get_config())
    for variant in ablation.VARIANTS:
        before = 0 if variant == "joint" else stage_1
        assert before + frames(ablation.get_config(variant)) == stage_1 + frames(ablation.get_config("zc_gca"))
