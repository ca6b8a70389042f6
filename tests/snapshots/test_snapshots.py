"""The package still behaves as recorded in `tests/snapshots/data` by `python -m tests.snapshots.record`."""

from __future__ import annotations

import numpy as np
import pytest

from tests.snapshots import adapters, frames, losses, options, plans, record

# Relative to the largest latent. Other vector instructions (SSE4.2 instead of AVX) change latents by at most 1.4e-6.
# Another summation order, from other batch sizes or fused operations, changes them more, because guidance and a few
# large steps amplify rounding. An error such as a guidance weight off by 1 % changes them by 1e-2 or more.
LATENTS_TOLERANCE = 2e-4
FRAME_LEVELS = 1  # out of 255: values between two levels may be rounded differently
# Relative tolerances. Losses are means over many float32 elements; SSE4.2 changes them by at most 1.8e-6, and gradient
# norms by 2.4e-4. AdamW divides by gradient magnitudes, so that rounding errors of the smallest ones grow every step.
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 2e-3


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMCD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield adapters.open_pipeline()


@pytest.mark.parametrize("name", frames.CASES)
def test_the_shipped_model_gives_the_recorded_video(sample, name):
    latents, video = sample(**frames.request(name))
    with np.load(record.DATA / f"frames_{name}.npz") as recorded:
        assert latents.shape == recorded["latents"].shape
        error = np.abs(latents - recorded["latents"]).max() / np.abs(recorded["latents"]).max()
        assert error <= LATENTS_TOLERANCE
        assert (video.dtype, video.shape) == (recorded["frames"].dtype, recorded["frames"].shape)
        assert np.abs(video.astype(int) - recorded["frames"]).max() <= FRAME_LEVELS


@pytest.mark.parametrize("name", list(losses.cases()))
def test_training_steps_give_the_recorded_losses(name):
    found, recorded = losses.run(name), record.read("losses")[name]
    np.testing.assert_allclose(found["examples"], recorded["examples"], rtol=LOSS_TOLERANCE)
    np.testing.assert_allclose(found["loss"], recorded["loss"], rtol=LOSS_TOLERANCE)
    np.testing.assert_allclose(found["gradient_norm"], recorded["gradient_norm"], rtol=NORM_TOLERANCE)


@pytest.mark.parametrize("name", list(plans.CASES))
def test_a_plan_counts_what_was_recorded(name):
    assert plans.summary(name) == record.read("plans")[name]


def test_commands_take_the_recorded_options(capsys):
    changes = options.differences(record.read("options"), options.tables())
    assert not changes, "\n" + "\n".join(changes)
