"""A video is named after its input by default, unless a folder has this name."""

from __future__ import annotations

from pathlib import Path

import pytest

from smcd_jax.pipeline.clip import _output


@pytest.mark.parametrize(
    ("values", "folder", "name"),
    [
        ({"input_data_path": "my_dog"}, "my_dog", "my_dog_video"),
        ({"input_data_path": "data/my_dog/"}, "data/my_dog", "my_dog"),
        ({"image": "cat.png"}, "cat", "cat_video"),
        ({"image": "cat.png"}, "other", "cat"),
        ({}, "video", "video_video"),
    ],
)
def test_a_folder_with_the_default_name_is_avoided(tmp_path, monkeypatch, values, folder, name):
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert str(_output(values, Path())) == name
