"""Videos longer than a window: the windows, how they are blended, and the pipeline with several model families."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.conversion.untrained import write_untrained
from smcd_jax.diffusion.windows import make_windows
from smcd_jax.models.branches import windowed_branch_outputs
from smcd_jax.models.registry import make_model
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.sampling_options import SamplingOptions
from tests.errors import refused
from tests.models.toy_family import ToyConfig, ToyNetConfig
from tests.models.toy_options import ToyOptionsConfig

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.mark.parametrize(("frames", "window", "overlap"), [(32, 8, 4), (9, 8, 4), (13, 4, 0), (10, 5, 4), (3, 1, 0)])
def test_windows_cover_every_frame_with_weights_that_sum_to_one(frames, window, overlap):
    windows = make_windows(frames, window=window, overlap=overlap)
    assert windows.frames.shape[1] == window
    assert (windows.frames[0, 0], windows.frames[-1, -1]) == (0, frames - 1)
    assert (np.diff(windows.frames, axis=1) == 1).all()
    shared = [len(set(a) & set(b)) for a, b in itertools.pairwise(windows.frames)]
    assert set(shared[:-1]) <= {overlap}
    assert shared[-1] >= overlap
    total = np.zeros(frames)
    np.add.at(total, windows.frames, windows.weights)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert make_windows(window, window=window, overlap=overlap) is None


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"window": 4, "window_overlap": 4}, "window_overlap"),
        ({"window_overlap": -1}, "window_overlap"),
        ({"window": 0}, "window"),
        ({"num_frames": 3, "loop": True}, "num_frames"),
        ({"num_frames": 3, "end_image": PICTURE}, "num_frames"),
    ],
)
def test_windows_that_cannot_be_made_are_refused_by_name(options, argument):
    with refused(argument):
        make_model(ToyOptionsConfig()).resolve(SamplingOptions(**options))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A pipeline whose network processes each frame separately, so that windows must not change the result."""
    return VideoPipeline.from_pretrained(write_untrained(tmp_path_factory.mktemp("models") / "toy", ToyConfig()).path)


@pytest.mark.parametrize(
    "options",
    [
        {"eta": 1.0, "num_videos_per_prompt": 2},
        {"eta": 0.0, "image_guidance_scale": 1.0, "window": 4, "window_overlap": 3},
        {"scheduler": "dpmsolver++", "window": 3, "window_overlap": 0},
        {"scheduler": "unipc", "window": 1},
    ],
)
def test_windows_change_nothing_where_frames_are_independent(toy, options):
    given = {"num_frames": 7, "num_inference_steps": 4, "output_type": "latent"} | options
    in_windows = toy(PICTURE, **given)
    whole = toy(PICTURE, **{**given, "window": 7, "window_overlap": 0})
    np.testing.assert_allclose(in_windows.latents, whole.latents, rtol=1e-4, atol=1e-5)
    assert in_windows.latents.shape[:2] == (given.get("num_videos_per_prompt", 1), 7)
    assert (len(in_windows.notes), len(whole.notes)) == (1, 0)


def test_a_callback_reads_and_changes_the_latents_of_the_whole_video(toy):
    seen = []

    def zero_last(pipeline, step, timestep, values):
        seen.append(values["latents"].shape[1])
        return {"latents": np.zeros_like(values["latents"])} if step == 1 else None

    given = {"num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
    assert not toy(PICTURE, callback_on_step_end=zero_last, **given).latents.any()
    assert seen == [5, 5]


class Frames:
    """A model whose output is x plus a frame's index in the window plus its context, made of its index in the video."""

    def before_steps(self, params):
        return params

    def precompute(self, params, context):
        return context * params

    def denoise(self, params, x, t, context, *, dropout_key=None, temporal=True):
        return x + context[..., None, None, None] + jnp.arange(x.shape[1], dtype=x.dtype).reshape(-1, 1, 1, 1)


def test_each_window_has_its_own_context_and_the_last_may_overlap_more():
    """With 6 frames, window 4 and overlap 1, windows are 0-3 and 2-5, blended 2 : 1 in frame 2 and 1 : 2 in frame 3."""
    windows = make_windows(6, window=4, overlap=1)
    contexts = jnp.asarray(windows.frames, jnp.float32)[:, None].repeat(2, axis=1)
    predict = windowed_branch_outputs(Frames(), jnp.float32(10), contexts, windows, 2)
    found = predict(jnp.zeros((1, 6, 1, 1, 1)), jnp.float32(0))
    assert found.shape == (2, 1, 6, 1, 1, 1)
    expected = np.array([0, 11, 20 + 2 * 2 / 3, 30 + (3 + 2 * 1) / 3, 42, 53])
    np.testing.assert_allclose(found[0, 0, :, 0, 0, 0], expected, rtol=1e-6)


def test_memory_grows_with_the_window_and_not_with_the_video(tmp_path):
    config = ToyConfig(net=ToyNetConfig(width=1024))  # wide, so that activations need more memory than latents
    wide = VideoPipeline.from_pretrained(write_untrained(tmp_path / "wide", config).path)
    needed = []
    for frames in (2, 24):
        wide(PICTURE, num_frames=frames, num_inference_steps=1, output_type="latent")
        (program,) = (value for key, value in wide.components.programs.items() if key[0] == "denoise")
        needed.append(list(program._programs.values())[-1].memory_analysis().temp_size_in_bytes)
    assert needed[1] < 1.5 * needed[0]
