"""Interrupted sampling resumes after the last completed step and gives the same frames as an uninterrupted run."""

import contextlib

import numpy as np
import pytest

from smcd_jax.media import read_video
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.clip import check_clip
from smcd_jax.pipeline.clip_run import make_clip
from smcd_jax.pipeline.partial_sample import read_partial
from smcd_jax.runtime.progress import Progress

pytestmark = pytest.mark.usefixtures("shared_programs")

EXAMPLE = "smcd_jax/assets/examples/sprite"


class Steps(Progress):
    """Counts the sampling steps and interrupts the run after step ``last``."""

    def __init__(self, last: int | None = None):
        self.done, self._last = 0, last

    @contextlib.contextmanager
    def stage(self, name, total=None, unit="it"):
        def advance():
            self.done += name == "denoise"
            if self.done == self._last:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="module")
def pipeline():
    return VideoPipeline.from_pretrained("tiny")


@pytest.fixture
def clip_of(pipeline, request):
    def clip(output, **changes):
        values = {"image": f"{EXAMPLE}/img.png", "tracks": f"{EXAMPLE}/tracks.json", "seed": 3, "output": str(output)}
        values |= {"num_inference_steps": 6, "num_frames": 4, "eta": 1.0, **changes}
        return check_clip(values, pipeline, formats=())

    return clip


def frames_of(clip):
    return read_video(clip.files.video(0, "mp4"))[0]


@pytest.mark.parametrize("sampler", [{}, {"scheduler": "unipc", "eta": 0.0}], ids=["ddim with noise", "unipc"])
def test_an_interrupted_run_continues_to_the_same_frames(pipeline, clip_of, tmp_path, sampler):
    whole = clip_of(tmp_path / "whole", **sampler)
    make_clip(pipeline, whole, progress=Progress())

    clip = clip_of(tmp_path / "clip", **sampler)
    with pytest.raises(KeyboardInterrupt):
        make_clip(pipeline, clip, progress=Steps(last=4))
    assert read_partial(clip.files.partial)[0].step == 4
    assert not clip.files.latents.exists()

    again, rest = clip_of(tmp_path / "clip", **sampler), Steps()
    calls = []
    denoise = next(program for key, program in pipeline.components.programs.items() if key[0] == "denoise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(denoise), "__call__", counted(type(denoise).__call__, denoise, calls))
        make_clip(pipeline, again, progress=rest)
    assert calls == [4, 5]
    assert rest.done == 6
    np.testing.assert_array_equal(frames_of(again), frames_of(whole))
    assert not again.files.partial.exists()


def counted(call, program, calls):
    def wrapped(self, *args):
        if self is program:
            calls.append(int(args[4]))
        return call(self, *args)

    return wrapped


@pytest.mark.parametrize("damage", ["another seed", "cut", "not finite"])
def test_a_sample_of_other_inputs_or_a_damaged_file_is_not_continued(pipeline, clip_of, tmp_path, damage):
    clip = clip_of(tmp_path / "clip")
    with pytest.raises(KeyboardInterrupt):
        make_clip(pipeline, clip, progress=Steps(last=2))
    path = clip.files.partial
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "not finite":
        with np.load(path) as content:
            arrays = dict(content)
        arrays["latents"][:] = np.nan
        np.savez(path, **arrays)
    changed = clip_of(tmp_path / "clip", seed=4 if damage == "another seed" else 3)
    whole = clip_of(tmp_path / "whole", seed=4 if damage == "another seed" else 3)
    make_clip(pipeline, changed, progress=Progress())
    make_clip(pipeline, whole, progress=Progress())
    np.testing.assert_array_equal(frames_of(changed), frames_of(whole))
    assert not path.exists()
