"""The default name of a video: that of the input, unless a folder has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from smcd_jax.cli.clip import _output


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
def test_a_folder_of_that_name_is_no_obstacle(tmp_path, monkeypatch, values, folder, name):
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert str(_output(values, Path())) == name
