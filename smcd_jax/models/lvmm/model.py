"""LVMM's requests: inputs of the networks from a picture, prompt, box tracks and options, and playback of motion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcd_jax.models.lvmm.guidance import MotionGuidance
from smcd_jax.models.lvmm.networks import Inputs, LVMMNetworks
from smcd_jax.models.video_model import ModelX0Transform, Request, SamplingPlan, VideoModel
from smcd_jax.motion import Motion, load_motion
from smcd_jax.sampling_options import SamplingOptions, refuse
from smcd_jax.tokenizer import Tokenizer

_RETURNS = 0.03  # largest distance between the first and last box of a closed track, as a share of the picture


class LVMMModel(LVMMNetworks):
    """The complete LVMM model with its sampling options: loops, slow motion, boxes, and motion read from a file."""

    null_prompt: ClassVar[str] = ""
    required: ClassVar[tuple[str, ...]] = ("image",)
    takes_tracks = True
    own_options: Mapping[str, tuple[str, ...]] = {
        "loop": ("guided", "pingpong", "none"),
        **dict.fromkeys(("loop_gradient", "loop_weight", "box_guidance_scale"), ()),
        **dict.fromkeys(("slow", "interpolation", "strength", "motion_from"), ()),
    }
    sampling_defaults: Mapping[str, Any] = {
        **VideoModel.sampling_defaults,
        **{"loop_gradient": "short", "loop_weight": 1.0, "box_guidance_scale": 1.0},
        **{"slow": 1, "interpolation": "linear", "strength": 1.0},
    }

    def plan(self, request: Request, tokenizer: Tokenizer) -> SamplingPlan:
        """Returns the picture, token ids and padded boxes."""
        config, options = self.config, request.options
        if request.num_frames != config.frames:
            refuse("num_frames", request.num_frames, f"be {config.frames} for this model; slow adds frames in between")
        if options.loop == "guided" and options.eta:
            refuse("eta", options.eta, "be 0 for a guided loop")
        raw = {"video": request.pictures[:, None], "picture": request.pictures, "guided_picture": request.pictures}
        if config.vision_encoder is not None:
            raw["seen_picture"] = request.pictures
        notes: tuple[str, ...] = ()
        if options.motion_from is not None and any(tracks is not None for tracks in request.tracks):
            refuse("tracks", "tracks", "be omitted with motion_from, which provides the motion")
        if config.text_encoder is not None:
            prompts, negative = request.prompts, request.negative_prompts
            raw["token_ids"] = self._ids(tokenizer, prompts)
            raw["prompted"] = np.array([bool(text) for text in prompts], np.float32)
            if any(negative):
                raw["null_ids"] = self._ids(tokenizer, [text or "" for text in negative])
        if any(tracks is not None for tracks in request.tracks):
            padded = [self._padded(tracks, request.num_frames) for tracks in request.tracks]
            raw["boxes"], raw["mask"] = (np.stack(part).astype(np.float32) for part in zip(*padded, strict=True))
            notes += _unclosed_tracks(raw["boxes"], raw["mask"]) if options.loop == "guided" else ()
        height, width = request.pictures.shape[1:3]
        side = round(config.motion_vae.downscale / config.scale)
        shape = (config.frames - 1, height // side, width // side, config.motion_vae.latent_channels)
        return SamplingPlan(raw, shape, notes, shown_frames=_shown_frames(config.frames, options))

    def x0_transform(self, options: SamplingOptions) -> ModelX0Transform | None:
        """Returns the guidance towards loops and boxes, or None if neither is requested."""
        loop = options.loop == "guided"
        if not (loop or options.box_guidance_scale):
            return None
        return MotionGuidance(
            decode=self.decode,
            unit=self.config.field_scale,
            loop=loop,
            boxes=options.box_guidance_scale,
            weight=options.loop_weight,
            through_network=options.loop_gradient == "full",
        )

    def playback(self, decoded: Motion | None, options: SamplingOptions) -> Motion:
        """Returns the motion after the playback options: as a loop, scaled, slowed down, or read from a file."""
        if options.motion_from is not None:
            motion = load_motion(options.motion_from)
        elif options.loop == "guided":
            motion = decoded.closed()  # the last frame coincides with the first
        else:
            motion = decoded.from_still()
        if options.loop == "pingpong" and not motion.loop:
            motion = motion.back_and_forth()
        return motion.scaled(options.strength).slow(options.slow, options.interpolation)

    def decoded_notes(self, decoded: Motion) -> tuple[str, ...]:
        """Returns remarks about the share of points that the renderer has to paint, and the seam of a loop."""
        share = decoded.hidden_share
        notes = [f"{share:.1%} of the points have confidence below 0.5 and are painted, not taken from the picture"]
        if decoded.loop:
            notes.append(f"seam of the loop: {decoded.seam:.2f} of the mean step between frames")
        return tuple(notes)

    def picture_inputs(self, pictures: Float[Array, "b h w 3"]) -> Inputs:
        """Returns the inputs that rendering needs."""
        return Inputs(jnp.zeros((len(pictures), 1, 1, 1)), picture=jnp.asarray(pictures))

    def _ids(self, tokenizer: Tokenizer, texts: Any) -> np.ndarray:
        ids = tokenizer.encode(list(texts), length=self.config.text_length)
        return np.minimum(ids, self.config.text_encoder.vocabulary - 1)

    def _padded(self, tracks: Any, frames: int) -> tuple[np.ndarray, np.ndarray]:
        objects = self.config.max_objects
        if tracks is None:
            return np.zeros((frames, objects, 4)), np.zeros((frames, objects))
        return tracks.pad(objects)


def _unclosed_tracks(boxes: np.ndarray, mask: np.ndarray) -> tuple[str, ...]:
    """Returns a remark if a box of the last frame is far from that of frame 1, with which the loop starts."""
    both = (mask[:, 1] > 0) & (mask[:, -1] > 0)
    apart = np.abs(boxes[:, 1] - boxes[:, -1]).max(axis=-1)[both]
    if not len(apart) or apart.max() <= _RETURNS:
        return ()
    return (
        f"a track ends {apart.max():.2f} of the picture from its start; in a loop it should return to its "
        "start, because the two guidance terms conflict otherwise",
    )


def _shown_frames(frames: int, options: SamplingOptions) -> tuple[int, ...] | None:
    """Returns the frame of the tracks that each frame of the video shows; None if the motion comes from a file."""
    if options.motion_from is not None:
        return None
    order = Motion(np.arange(1.0, frames).reshape(1, -1, 1, 1, 1).repeat(2, axis=-1), np.ones((1, frames - 1, 1, 1)))
    if options.loop == "guided":
        order = order.closed()
    else:
        order = order.from_still()
        order = order.back_and_forth() if options.loop == "pingpong" else order
    return tuple(int(at) for at in np.floor(order.slow(options.slow).displacement[0, :, 0, 0, 0] + 1e-6))
