"""The small ablation: the budgets it compares are equal, and its page shows the figures that its runs gave."""

import json
import subprocess
import sys
from pathlib import Path

from configs.tiny import ablation, stage1_object

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "ablation"


def frames(config) -> int:
    return config.run.steps * config.data.batch_size * config.data.frames


def test_joint_sees_as_many_frames_as_two_stages_together():
    stage_1 = frames(stage1_object.get_config())
    for variant in ablation.VARIANTS:
        of_two_stages = stage_1 + frames(ablation.get_config("zc_gca"))
        before = 0 if variant == "joint" else stage_1
        assert before + frames(ablation.get_config(variant)) == of_two_stages


def table(folder: Path) -> list[str]:
    command = [sys.executable, "launch/ablation_table.py", folder]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_the_page_shows_the_table_of_its_figures():
    assert "\n".join(table(FIGURES)) in (ROOT / "docs" / "ablation.md").read_text()


def test_a_row_is_the_mean_of_the_seeds_and_each_of_them_and_a_missing_variant_says_so(tmp_path):
    run = json.loads((FIGURES / "zc_gca_0.json").read_text())
    for seed, score in enumerate((0.5, 0.7)):
        run["model, box guidance on"]["AO"] = score
        (tmp_path / f"zc_gca_{seed}.json").write_text(json.dumps(run))
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table(tmp_path)[2:]}
    assert rows["object gates + ZC + GCA, two stages"][0] == "0.6 (0.5, 0.7)"
    assert set(rows["object gates + ZC"]) == {"not run", "not run |"}
    assert len(rows) == len(ablation.VARIANTS)
