"""The model that ships: a few held-out clips give their figures again, and the texts say what was measured."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smcd_jax.model_folder import ModelFolder

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "smcd_jax/assets/models/tiny"
MEASURE = ["launch/tiny_figures.py", "--clips", "8", "--extra_clips", "1", "--steps", "6"]
# What MEASURE prints for these weights. Another processor rounds otherwise, which moves a found box by a pixel or so.
AO = {"real clip": 0.975, "still first frame": 0.192, "model, box guidance off": 0.633, "model, box guidance on": 0.674}
PSNR = {"first frame PSNR, dB": 21.66, "autoencoder PSNR, dB": 25.73}
ROWS = {  # of the tables, by the figure they show
    "real clip": "real clip",
    "model, box guidance on": r"(?:\*\*tiny\*\*, box guidance 2|model, box guidance on)",
    "model, box guidance off": "(?:tiny|model), box guidance off",
    "first crop slid along the boxes": "first crop slid along the boxes",
    "still first frame": "still first frame",
}


def test_a_few_held_out_clips_give_their_figures_again(tmp_path):
    output = tmp_path / "figures.json"
    subprocess.run([sys.executable, *MEASURE, "--output", output], cwd=ROOT, check=True, capture_output=True)
    figures = json.loads(output.read_text())
    assert {name: figures[name]["AO"] for name in AO} == pytest.approx(AO, abs=0.03)
    assert {name: figures[name] for name in PSNR} == pytest.approx(PSNR, abs=0.2)


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((CARD / "figures.json").read_text())


def test_the_figures_are_of_the_weights_that_ship(card):
    assert ModelFolder("tiny").digest.startswith(card["settings"]["model"])
    assert card["settings"]["clips"] == 200


@pytest.mark.parametrize("text", [ROOT / "README.md", CARD / "README.md"], ids=["README", "model card"])
def test_tables_show_the_figures_that_were_measured(card, text):
    lines = text.read_text().splitlines()
    for figure, name in ROWS.items():
        (cells,) = (found[1] for line in lines if (found := re.fullmatch(rf"\| \**{name}\** \|(.*)\|", line)))
        shown = [cell.strip(" *") for cell in cells.split("|")]
        assert shown == [f"{value:.3f}" for value in card[figure].values()][: len(shown)]


def test_the_card_says_how_true_the_picture_stays_and_how_far_the_track_is_followed(card):
    text = (CARD / "README.md").read_text()
    assert f"First frame against the picture: {card['first frame PSNR, dB']:.1f} dB" in text
    assert f"the autoencoder alone: {card['autoencoder PSNR, dB']:.1f} dB" in text
    followed = card["asked and found displacement, rank correlation"]
    assert f"rank correlation of asked and found displacement {followed['rank_correlation']:.2f}" in text
    assert f"({followed['objects']} objects found, {followed['missing']} not)" in text
    assert f"change by {card['label swapped, mean absolute change of pixels, 0..255']:.1f} of 255" in text
