"""Conversion of latents and motion to frames: decoding, playback of motion, and rendering in chunks."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.media import read_picture, to_uint8
from smcd_jax.models.video_model import Inputs, VideoModel
from smcd_jax.motion import Motion
from smcd_jax.pipeline.components import Components
from smcd_jax.runtime.progress import Progress, as_progress
from smcd_jax.sampling_options import SamplingOptions


class Rendering:
    """The part of `smcd_jax.pipeline.VideoPipeline` that turns latents and motion into frames.

    Attributes:
        model: The model.
        components: Its weights and compiled programs.
    """

    model: VideoModel
    components: Components

    def decode(
        self, latents: np.ndarray, inputs: Inputs = None, *, chunk_size: int = 8, progress: bool | Progress = False
    ) -> np.ndarray:
        """Returns uint8 frames [b, f, H, W, 3] of scaled latents [b, f, h, w, c], decoded in chunks by one program.

        Args:
            latents: Scaled latents.
            inputs: Inputs of the request, for models that render through the picture.
            chunk_size: Number of frames decoded at once.
            progress: See `__call__`.
        """
        self.components.progress = as_progress(progress)
        return self.render_decoded(self.decoded(latents, inputs), inputs, chunk_size=chunk_size)

    def decoded(self, latents: np.ndarray | None, inputs: Inputs = None, options: SamplingOptions | None = None) -> Any:
        """Returns the decoded latents after the playback options: an array, or a `smcd_jax.motion.Motion` on the host.

        Args:
            latents: Scaled latents [b, f, h, w, c]; None with ``options.motion_from``.
            inputs: Inputs of the request.
            options: Resolved playback options; None to apply none.
        """
        decoded = None
        if latents is not None:
            params = self.components.params_of(self.model.in_stage("decode"))
            program = self.components.program("motion", self.model.decode)
            decoded = program(params, latents.astype(np.float32), inputs)
            decoded = jax.tree.map(np.asarray, decoded) if self.model.field_shape else decoded
        return decoded if options is None else _for_rows(self.model.playback(decoded, options), inputs)

    def render_decoded(self, decoded: Any, inputs: Inputs = None, *, chunk_size: int = 8) -> np.ndarray:
        """Returns uint8 frames [b, f, H, W, 3] of the result of `decoded`, rendered in chunks by one program."""
        names = self.model.in_stage("decode")
        params = self.components.params_of(names)
        program = self.components.program("decode", self.model.render)
        rows, count = jax.tree.leaves(decoded)[0].shape[:2]
        size = min(max(1, chunk_size // rows), count)
        starts = range(0, count, size)
        frames = []
        program.program(params, decoded, inputs, np.arange(size, dtype=np.int32))
        with self.components.progress.stage("decode", len(starts), "chunk") as advance:
            for start in starts:
                chosen = np.minimum(np.arange(start, start + size), count - 1).astype(np.int32)
                pictures = program(params, decoded, inputs, chosen)
                frames.append(to_uint8(np.asarray(pictures)[:, : count - start]))
                advance()
        self.components.release(*names)
        return np.concatenate(frames, axis=1)

    def sample_motion(self, image: Any, prompt: str | None = None, **options: Any) -> Motion:
        """Returns the motion of a picture, without rendering it; options are those of `__call__`.

        Raises:
            SMCDError: The model has no motion fields, or an argument is wrong.
        """
        return self(image, prompt, output_type="motion", **options).motion

    def render(self, image: Any, motion: Motion, **options: Any) -> np.ndarray:
        """Returns uint8 frames [b, f, H, W, 3] of a picture animated by a given motion, without diffusion.

        Args:
            image: A path, PIL picture or array, or a list of them.
            motion: Motion of one video, used for all pictures, or one motion per picture.
            **options: Fields of `SamplingOptions` about size and chunks: ``height``, ``width``, ``decode_chunk_size``.

        Raises:
            SMCDError: The model has no motion fields, or a picture cannot be read.
        """
        if not self.model.field_shape:
            raise SMCDError("this model has no motion fields; use one of the lvmm family", argument="motion")
        resolved = self.model.resolve(SamplingOptions(**options))
        images = image if isinstance(image, list | tuple) else [image]
        pictures = np.stack([self.model.fit_picture(read_picture(item), resolved).pixels for item in images])
        inputs = self.model.picture_inputs(pictures)
        return self.render_decoded(_for_rows(motion, inputs), inputs, chunk_size=resolved.decode_chunk_size)


def _for_rows(decoded: Any, inputs: Inputs) -> Any:
    """Returns the decoded frames; those of a single video are repeated for every row of the inputs."""
    leaves = jax.tree.leaves(inputs)
    if not leaves or jax.tree.leaves(decoded)[0].shape[0] == leaves[0].shape[0]:
        return decoded
    return jax.tree.map(lambda x: np.broadcast_to(x, (leaves[0].shape[0], *x.shape[1:])), decoded)
