"""The only functions in the snapshot tests that use the package.

When something in the package is renamed or moved, change the body of a function here, but neither its arguments nor its
results, with which `tests/snapshots/data` was recorded.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

ROOT = Path(__file__).resolve().parents[2]
GAIN = 1.5  # see `_starting_point`
# Overrides that leave one level, attention only in the middle block, and at most a quarter of the width, so that a
# gradient compiles in seconds. See `_starting_point` for the weights.
VERY_SMALL = (
    "model.unet.base_channels=16",
    "model.unet.channel_mult=(1,)",
    "model.unet.num_res_blocks=0",
    "model.unet.attention_scales=()",
    "model.unet.head_dim=8",
    "model.unet.context_dim=16",
    "model.unet.object_width=16",
    "model.unet.image_width=16",
    "model.unet.groups=4",
    "model.autoencoder.base_channels=8",
    "model.autoencoder.channel_mult=(1,1)",
    "model.autoencoder.groups=4",
    "model.text_encoder.width=16",
    "model.text_encoder.layers=2",
    "model.text_encoder.embed_width=16",
)
VERY_SMALL_CONDITIONERS = (
    "model.position_net.label_width=16",
    "model.position_net.token_width=16",
    "model.position_net.hidden_width=16",
    "model.image_encoder.stages=(16,)",
)


class Problem(NamedTuple):
    """A training problem in which nothing is random; batches contain the noise.

    Attributes:
        trained: Parameters that are updated: any tree of float32 arrays.
        frozen: All other parameters.
        optimizer: The run's optimizer.
        losses: ``losses(trained, frozen, batch)``, the loss of each example ``[b]``.
    """

    trained: Any
    frozen: Any
    optimizer: optax.GradientTransformation
    losses: Callable[[Any, Any, Mapping[str, Any]], jax.Array]


def open_pipeline() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Returns ``sample(boxes, mask, labels, second_latents=None, **arguments)`` of the shipped model in float32.

    ``sample`` returns float32 latents ``[b, f, h, w, c]`` and uint8 frames ``[b, f, height, width, 3]``. ``boxes``,
    ``mask`` and ``labels`` give the tracks of each example. ``second_latents`` replaces the latents after the first
    step, so that a one-step solver does not depend on the initial noise. ``arguments`` are passed to the pipeline.
    """
    from smcd_jax import VideoPipeline
    from smcd_jax.tracks import BoxTracks

    pipeline = VideoPipeline.from_pretrained("tiny", dtype="float32")

    def sample(
        boxes: np.ndarray,
        mask: np.ndarray,
        labels: list[tuple[str, ...]],
        second_latents: np.ndarray | None = None,
        **arguments: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        def replace(_pipeline: Any, step: int, _timestep: float, _values: Any) -> dict[str, Any] | None:
            return {"latents": second_latents} if step == 0 and second_latents is not None else None

        tracks = [BoxTracks(*track) for track in zip(boxes, mask, labels, strict=True)]
        output = pipeline(tracks=tracks, output_type="uint8", callback_on_step_end=replace, **arguments)
        return output.latents, output.frames

    return sample


def denoising_problem(config_file: str) -> Problem:
    """Returns the diffusion loss of a config file with weights from the shipped model, without dropout.

    A batch holds latents ``[b, f, h, w, c]``, noise of the same shape, timesteps ``[b]``, boxes ``[b, f, n, 4]``, mask
    ``[b, f, n]``, token_ids ``[b, l]``, label_ids ``[b, n, l]`` and null_ids ``[b, l]``. Float32 arrays ``[b]`` are 0
    for examples without a condition: keep_text, keep_boxes, keep_image_latent and keep_image_tokens.
    """
    from smcd_jax.models.registry import make_model
    from smcd_jax.training.config import load_config
    from smcd_jax.training.selection import join
    from smcd_jax.training.state import policy
    from smcd_jax.training.step import Noised, denoising_losses

    config = load_config(str(ROOT / config_file), _very_small(config_file))
    model = make_model(config.model, policy(config))

    def losses(trained: Any, frozen: Any, batch: Mapping[str, Any]) -> jax.Array:
        params = join(trained, frozen)
        inputs = model.inputs(model.features(params, batch, jax.random.key(0)))
        keep = {switch: batch[f"keep_{switch}"] > 0 for switch in model.switches}
        noised = Noised(batch["noise"], batch["timesteps"])
        inputs = model.drop(inputs, keep)
        gamma, temporal = config.loss.min_snr_gamma, config.temporal
        return denoising_losses(
            model, params, batch["latents"], noised, inputs=inputs, min_snr_gamma=gamma, temporal=temporal
        )

    return Problem(*_starting_point(config), losses)


def autoencoder_problem(config_file: str) -> Problem:
    """Returns the autoencoder loss of a config file with weights from the shipped model.

    A batch holds uint8 video ``[b, 1, height, width, 3]`` and the posterior's noise ``[b, h, w, c]``. The loss draws
    noise from a key; the draw is replaced while the loss is traced, so that the result does not depend on the key.
    """
    from smcd_jax.models.registry import make_model
    from smcd_jax.training.config import load_config
    from smcd_jax.training.selection import join
    from smcd_jax.training.state import policy
    from smcd_jax.training.step import make_objective

    config = load_config(str(ROOT / config_file), _very_small(config_file))
    objective = make_objective(config, make_model(config.model, policy(config)))

    def losses(trained: Any, frozen: Any, batch: Mapping[str, Any]) -> jax.Array:
        def given(_key: Any, shape: tuple[int, ...], _dtype: Any = None) -> jax.Array:
            return batch["noise"].reshape(shape)

        with mock.patch.object(jax.random, "normal", given):
            return objective(join(trained, frozen), {}, batch, jax.random.key(0))[0].loss

    return Problem(*_starting_point(config), losses)


def _very_small(config_file: str) -> tuple[str, ...]:
    return VERY_SMALL + (VERY_SMALL_CONDITIONERS if "scene" in config_file else ())


def _starting_point(config: Any) -> tuple[Any, Any, optax.GradientTransformation]:
    """Returns trained and frozen parameters and the optimizer.

    Each parameter is the leading part of the shipped array. Signals in such a smaller network are weaker, so that no
    condition would change the loss by more than the tolerance. Therefore arrays with two or more axes are scaled to a
    deviation of GAIN / sqrt(inputs), and gates are opened to tanh(1). Dropping boxes, text, image latent or image
    tokens then changes the loss of most examples by at least 0.1 %.
    """
    from smcd_jax.model_folder import ModelFolder
    from smcd_jax.nn.networks import flatten, unflatten
    from smcd_jax.training.optimizer import make_optimizer
    from smcd_jax.training.selection import split
    from smcd_jax.training.state import abstract, trained_paths

    folder, params = ModelFolder("tiny"), {}
    for name, shapes in abstract(config).items():
        leaves = folder.leaves(name)
        for path, leaf in flatten(shapes).items():
            part = leaves[path][tuple(slice(size) for size in leaf.shape)].astype(np.float32)
            assert part.shape == leaf.shape, path
            params[f"{name}/{path}"] = jnp.asarray(_lively(part))
    trained, frozen = split(unflatten(params), trained_paths(config))
    return trained, frozen, make_optimizer(config.optimizer, config.run.steps)


def _lively(leaf: np.ndarray) -> np.ndarray:
    if leaf.ndim == 0:
        return np.ones_like(leaf)
    inputs = np.prod(leaf.shape[:-1])
    if leaf.ndim == 1 or inputs > 10_000:  # biases and norms; token embeddings, which are looked up and not summed
        return leaf
    return leaf * np.float32(GAIN / (leaf.std(dtype=np.float64) * np.sqrt(inputs)))


def token_ids(texts: list[str]) -> np.ndarray:
    """Returns int32 token ids ``[n, l]`` from the shipped model's tokenizer."""
    return _tokenizer().encode(texts)


@functools.cache
def _tokenizer() -> Any:
    from smcd_jax.model_folder import ModelFolder

    return ModelFolder("tiny").tokenizer()


def plan_of(config_file: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Returns what `smcd plan` reports about a run on eight fake CPU devices without compiling it, as JSON values.

    These are the mesh, the batch (shape and dtype of every array), and for every parameter a row
    ``[component, trained, shape, dtype, axes]``, where axes gives the mesh axes of each array axis. Paths are omitted.
    """
    from smcd_jax.nn.networks import flatten
    from smcd_jax.runtime.sharding import make_mesh
    from smcd_jax.training.config import load_config
    from smcd_jax.training.step import TrainProgram

    config = load_config(str(ROOT / config_file), overrides)
    mesh = make_mesh(config.mesh, jax.devices()[:8])
    with jax.set_mesh(mesh):
        program = TrainProgram(config, mesh)
    rows = [
        [path.split("/")[0], trained, list(leaf.shape), str(leaf.dtype), _axes(leaf)]
        for trained, tree in ((True, program.state.params), (False, program.frozen))
        for path, leaf in flatten(tree).items()
    ]
    batch = {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in program.batch.items()}
    return {"mesh": dict(mesh.shape), "batch": batch, "rows": rows}


def _axes(leaf: jax.ShapeDtypeStruct) -> list[str]:
    """Returns the mesh axes over which each array axis is split, or "-" for none."""
    spec = tuple(leaf.sharding.spec) + (None,) * (len(leaf.shape) - len(leaf.sharding.spec))
    return ["-" if axis is None else axis if isinstance(axis, str) else "+".join(axis) for axis in spec]


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the argparse parsers of `smcd` ("") and of every command, by name, by making each one print its help."""
    from smcd_jax.cli import COMMANDS, main

    parsers: dict[str, argparse.ArgumentParser] = {}
    for name in ("", *COMMANDS):
        note = functools.partialmethod(lambda parser, *_, name: parsers.setdefault(name, parser), name=name)
        with mock.patch.object(argparse.ArgumentParser, "print_help", note):
            main([*filter(None, [name]), "--help"])
    return parsers


def option_defaults() -> dict[str, Any]:
    """Returns defaults of `smcd animate`'s options that are not in its parser, by option name without dashes."""
    from smcd_jax.cli.clip_options import OPTIONS

    return {name: option.default for name, option in OPTIONS.items()}
