"""The pipeline with the shipped model: seeds, steps, programs, callbacks, outputs, and refused requests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.diffusion.guidance import composed_guidance
from smcd_jax.diffusion.samplers import initial_state, make_solver_table
from smcd_jax.diffusion.sampling import on_device
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.models.smcd.guidance import BOXES, IMAGE, TEXT
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.request import make_request
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tracks import BoxTracks
from tests.errors import refused

pytestmark = pytest.mark.usefixtures("shared_programs")

FRAMES = 4
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
# For latents of order 1. Programs for other batch sizes sum in another order, and steps amplify float32 rounding by
# up to 15, which is 1 / sqrt(alphas_cumprod) at the noisiest step.
OTHER_PROGRAM = {"atol": 1e-3, "rtol": 1e-3}


def tracks(objects: int = 1, prompt: str | None = "a red kite") -> BoxTracks:
    x = np.linspace(0.1, 0.5, FRAMES)[:, None]
    one = np.stack([x, x, x + 0.3, x + 0.4], axis=-1)
    return BoxTracks(one.repeat(objects, axis=1), np.ones((FRAMES, objects)), ("kite",) * objects, prompt=prompt)


GIVEN = {"image": PICTURE, "tracks": tracks(), "num_frames": FRAMES, "num_inference_steps": 2, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    return VideoPipeline.from_pretrained("tiny")


@pytest.fixture(scope="module")
def sample(pipeline):
    """A sample with seed 5, whose latents other tests use for comparison."""
    return pipeline(**GIVEN, seed=5)


@pytest.fixture(scope="module")
def pair(pipeline):
    """Samples with seeds 3 and 5, in one batch."""
    return pipeline(**GIVEN, num_videos_per_prompt=2, seed=[3, 5])


def test_a_sample_depends_on_its_seed_and_not_on_its_row(pair, sample):
    assert np.abs(pair.latents[0] - pair.latents[1]).max() > 0.1
    np.testing.assert_allclose(pair.latents[1], sample.latents[0], **OTHER_PROGRAM)


def test_several_videos_per_prompt_have_seeds_counted_up(pair, pipeline):
    again = pipeline(**GIVEN, num_videos_per_prompt=2, seed=4)
    assert again.request.seeds == (4, 5)
    assert again.request.prompts == ("a red kite",) * 2
    np.testing.assert_array_equal(again.latents[1], pair.latents[1])  # same program, same row, same seed 5


def test_the_same_call_gives_the_same_latents(pipeline, sample):
    np.testing.assert_array_equal(pipeline(**GIVEN, seed=5).latents, sample.latents)


def test_single_steps_give_the_same_result_as_the_whole_range(pipeline, sample):
    """Steps 0 to 3 of the denoising program agree bit for bit in one call and in three, including eta's noise."""
    model, components = pipeline.model, pipeline.components
    guidance = model.guidance({})
    inputs = pipeline.encode_inputs(model.plan(sample.request, pipeline.tokenizer), sample.request.seeds)
    params = components.params_of(model.in_stage("denoise"))
    context = components.programs["precompute"](params, pipeline.encode(inputs, guidance))
    table = make_solver_table(NoiseSchedule(), sampler="ddim", num_steps=3, eta=1.0)
    weights = jnp.asarray(guidance.weights, jnp.float32)
    settings = {"table": on_device(table), "weights": weights, "keys": jax.random.key(7)[None]}
    program = components.programs["denoise", 2, 0.0, None]

    def run(state, start, stop):
        return program(params, state, (context, None), settings, np.int32(start), np.int32(stop))

    begin = initial_state(jax.random.normal(jax.random.key(1), sample.latents.shape))
    whole, state = run(begin, 0, 3), begin
    for step in range(3):
        state = run(state, step, step + 1)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    assert np.abs(whole.latents - run(begin, 0, 2).latents).max() > 1e-3


def test_one_program_serves_every_sampler_and_number_of_steps(pipeline, sample):
    program = pipeline.components.programs["denoise", 2, 0.0, None]
    before = dict(program._programs)
    for scheduler, steps in (("euler", 3), ("dpmsolver++", 4), ("unipc", 2)):
        pipeline(**GIVEN | {"num_inference_steps": steps, "scheduler": scheduler, "guidance_scale": 3.0}, seed=5)
    assert program._programs == before


class GuidanceSeenError(Exception):
    """Stops a call once its guidance is known."""


class UntilGuidance(VideoPipeline):
    def encode(self, inputs, guidance, windows=None):
        raise GuidanceSeenError(guidance)


@pytest.mark.parametrize(("scale", "branches"), [(1.0, 1), (7.5, 2)])
def test_a_scale_of_one_takes_one_branch(sample, scale, branches):
    with pytest.raises(GuidanceSeenError) as seen:
        UntilGuidance.from_pretrained("tiny")(**GIVEN, guidance_scale=scale)
    assert len(seen.value.args[0].branches) == branches
    assert seen.value.args[0] == composed_guidance((IMAGE, BOXES, TEXT), {"text": scale})


def test_the_callback_sees_every_step_with_its_timestep_and_latents(pipeline, sample):
    seen = []
    out = pipeline(**GIVEN, seed=5, callback_on_step_end=lambda *args: seen.append(args))
    assert [(pipe, step, time) for pipe, step, time, _ in seen] == [(pipeline, 0, 501.0), (pipeline, 1, 1.0)]
    np.testing.assert_array_equal(seen[-1][3]["latents"], out.latents)
    np.testing.assert_array_equal(out.latents, sample.latents)
    assert np.abs(seen[0][3]["latents"] - out.latents).max() > 1e-3


def test_latents_returned_by_the_callback_replace_those_of_the_step(pipeline, sample):
    given = np.full_like(sample.latents, 0.25)
    last = lambda pipe, step, time, kept: {"latents": given} if step == 1 else None  # noqa: E731
    np.testing.assert_array_equal(pipeline(**GIVEN, seed=5, callback_on_step_end=last).latents, given)
    first = lambda pipe, step, time, kept: {"latents": kept["latents"] + 1} if step == 0 else {}  # noqa: E731
    assert np.abs(pipeline(**GIVEN, seed=5, callback_on_step_end=first).latents - sample.latents).max() > 0.01


@pytest.fixture(scope="module")
def videos(pipeline, sample):
    """The same sample in every output type that contains pictures."""
    return {kind: pipeline(**GIVEN | {"output_type": kind}, seed=5) for kind in ("np", "uint8", "pil")}


def test_output_types_hold_the_same_frames(videos, sample):
    exact = videos["uint8"].frames
    assert (exact.dtype, exact.shape) == (np.uint8, (1, FRAMES, 32, 32, 3))
    assert (videos["np"].frames.dtype, videos["np"].frames.shape) == (np.float32, exact.shape)
    np.testing.assert_array_equal(np.round(videos["np"].frames * 255), exact)
    assert videos["np"].frames.max() <= 1
    assert [len(video) for video in videos["pil"].frames] == [FRAMES]
    np.testing.assert_array_equal(np.stack([np.asarray(frame) for frame in videos["pil"].frames[0]]), exact[0])
    assert sample.frames is sample.latents
    assert sample.latents.shape == (1, FRAMES, 8, 8, 4)
    for output in videos.values():
        np.testing.assert_array_equal(output.latents, sample.latents)


def test_chunks_of_the_decoder_change_no_frame(pipeline, sample, videos):
    for size in (3, 8):  # 4 frames are a chunk and one more frame, or half a chunk
        frames = pipeline.decode(sample.latents, chunk_size=size)
        # another program may round values between two levels differently
        assert np.abs(frames.astype(int) - videos["uint8"].frames).max() <= 1


def test_final_latents_are_available_before_they_are_decoded(pipeline, sample):
    class KeptError(Exception):
        """Stops the call where decoding would begin."""

    kept = []

    def keep(latents):
        kept.append(latents)
        raise KeptError

    with pytest.raises(KeptError):
        pipeline(**GIVEN | {"output_type": "np"}, seed=5, before_decode=keep)
    np.testing.assert_array_equal(kept[0], sample.latents)


def test_releasing_components_does_not_change_the_frames(videos):
    frugal = VideoPipeline.from_pretrained("tiny", keep_loaded=False)
    frames = frugal(**GIVEN | {"output_type": "uint8"}, seed=5).frames
    np.testing.assert_array_equal(frames, videos["uint8"].frames)
    assert frugal.components.loaded == ()


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"height": 60}, "height"),
        ({"width": 0}, "width"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt"),
        ({"prompt": None, "tracks": tracks(prompt=None)}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": ["a", "b", ""]}, "prompt"),
        ({"prompt": ["a", "b"], "image": [PICTURE] * 3}, "prompt"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"] * 3}, "prompt"),
        ({"tracks": None}, "tracks"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 1, "num_videos_per_prompt": 2}, "seed"),
        ({"seed": [1, 2]}, "seed"),
        ({"image": None}, "image"),
        ({"height": 2**20}, "height"),
        ({"height": 32.0}, "height"),
        ({"num_frames": "8"}, "num_frames"),
        ({"seed": None}, "seed"),
        ({"seed": [1.5]}, "seed"),
        ({"prompt": 5}, "prompt"),
        ({"tracks": {"a": 1}}, "tracks"),
        ({"output_type": "gif"}, "output_type"),
        ({"decode_chunk_size": 0}, "decode_chunk_size"),
        ({"decode_chunk_size": 2.5}, "decode_chunk_size"),
        ({"num_inference_steps": "7"}, "num_inference_steps"),
        ({"guidance_rescale": 1.5}, "guidance_rescale"),
        ({"scheduler": "plms"}, "scheduler"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"box_guidance_scale": 2.0, "reference_guidance": True}, "box_guidance_scale"),
        ({"img_free_guidance": 1.0}, "img_free_guidance"),
        ({"steps": 5}, "steps"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_computed(changes, argument):
    untouched = VideoPipeline.from_pretrained("tiny")
    with refused(argument):
        untouched(**{"prompt": "a kite", **GIVEN, **changes})
    assert untouched.components.loaded == ()


@pytest.mark.parametrize("changes", [{"image": "absent.png"}, {"tracks": tracks(objects=5)}])
def test_unreadable_or_inconsistent_inputs_are_refused(changes):
    untouched = VideoPipeline.from_pretrained("tiny")
    with refused():
        untouched(**GIVEN | changes)
    assert untouched.components.loaded == ()


def test_a_dtype_that_no_network_has_is_refused():
    with pytest.raises(SMCDError):
        VideoPipeline.from_pretrained("tiny", dtype="float16")


def test_a_request_holds_one_example_per_video(pipeline):
    two = dataclasses.replace(tracks(), labels=("dog",), prompt="a dog")
    options = SamplingOptions(num_videos_per_prompt=2, num_frames=FRAMES)
    request = make_request(pipeline.model, image=PICTURE, prompt=None, tracks=[tracks(), two], options=options)
    assert request.prompts == ("a red kite", "a red kite", "a dog", "a dog")
    assert request.negative_prompts == (None,) * 4
    assert request.seeds == (0, 1, 2, 3)
    assert request.pictures.shape == (4, 32, 32, 3)
    raw = pipeline.model.plan(request, pipeline.tokenizer).raw
    assert raw["video"].shape == (4, 1, 32, 32, 3)
    assert raw["boxes"].shape == (4, FRAMES, 4, 4)
    np.testing.assert_array_equal(raw["mask"][..., 0], 1)
    np.testing.assert_array_equal(raw["mask"][..., 1:], 0)
    np.testing.assert_array_equal(raw["label_ids"][0], raw["label_ids"][1])
    assert (raw["label_ids"][0, 0] != raw["label_ids"][2, 0]).any()


def test_a_truncated_prompt_is_noted_and_logged(pipeline, caplog):
    output = pipeline(**GIVEN | {"prompt": "word " * 100}, seed=5)
    (note,) = output.notes
    assert "102" in note
    assert note in caplog.text
