"""The KL autoencoder with patches and a linear shortcut; golden cases cover the published architecture."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.sprites import SpriteWorld, WorldConfig
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.nn.autoencoder_kl import _from_patches, _to_patches, to_model_range
from smcd_jax.nn.config import AutoencoderConfig
from smcd_jax.nn.cosine_code import cosine_code
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params
from smcd_jax.nn.networks import network as make_network

PATCHED = AutoencoderConfig(
    base_channels=8, channel_mult=(1, 1), num_res_blocks=1, latent_channels=24, groups=4, patch=4, linear_shortcut=True
)


def test_patches_are_the_squares_of_the_picture():
    picture = jnp.arange(2 * 8 * 12 * 3, dtype=jnp.float32).reshape(2, 8, 12, 3)
    patches = _to_patches(picture, 4)
    np.testing.assert_array_equal(patches[1, 1, 2], picture[1, 4:8, 8:12].reshape(-1))
    np.testing.assert_array_equal(_from_patches(patches, 4), picture)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_the_complete_cosine_code_is_exact(side):
    inwards, outwards = cosine_code(side, 3 * side**2)
    np.testing.assert_allclose(inwards @ outwards, np.eye(3 * side**2), atol=1e-5)


def test_the_first_coefficient_is_the_brightness():
    inwards, outwards = cosine_code(8, 24)
    np.testing.assert_allclose(outwards[0], outwards[0, 0])
    np.testing.assert_allclose(outwards @ inwards, np.eye(24), atol=1e-5)


def test_an_untrained_autoencoder_with_a_shortcut_shows_the_picture():
    world = SpriteWorld(WorldConfig(max_objects=3, backgrounds=("photographs",), shadow_share=0.8))
    pictures = jnp.asarray(np.stack([world.render(index, frames=[0]).video[0] for index in range(16)]))
    network = make_network(PATCHED, ComputePolicy())
    params = jax.jit(lambda key: network.init(key, method="dummy_call"))(jax.random.key(0))["params"]

    def decoded(pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        posterior = network.apply({"params": params}, to_model_range(pictures), method="posterior")
        sample = posterior.sample(jax.random.key(1))
        return sample, network.apply({"params": params}, sample, method="decode_unscaled")

    latents, again = jax.jit(decoded)(pictures)
    error = jnp.square(jnp.clip(again, -1, 1) - to_model_range(pictures)).mean(axis=(1, 2, 3)) / 4
    assert latents.shape == (16, 8, 8, 24)
    assert 0.3 < float(latents.std()) < 2  # the coefficients' variance is about 1
    assert float(-10 * jnp.log10(error).mean()) > 23


def test_configs_without_the_new_fields_are_stored_as_before():
    assert "patch" not in to_dict(AutoencoderConfig())
    assert "linear_shortcut" not in to_dict(AutoencoderConfig())
    assert from_dict(AutoencoderConfig, to_dict(PATCHED)) == PATCHED
    assert PATCHED.downscale == 8
    usual = abstract_params(AutoencoderConfig(base_channels=8, channel_mult=(1,), groups=4))
    assert usual.keys() == {"encoder", "decoder", "quant", "post_quant"}
    assert abstract_params(PATCHED).keys() == {*usual, "shortcut_in", "shortcut_out"}
