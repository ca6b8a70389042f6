"""Requests to DynamiCrafter: its sampling options, and the plan of a request."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from smcd_jax.models.dynamicrafter.config import ModelConfig
from smcd_jax.models.dynamicrafter.model import NO_SOURCE, DynamiCrafterNetworks
from smcd_jax.models.dynamicrafter.pictures import fit_picture
from smcd_jax.models.dynamicrafter.preprocess import whole_picture
from smcd_jax.models.video_model import FittedPicture, Request, SamplingPlan
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.sampling_options import SamplingOptions, refuse
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.tracks import BoxTracks

LOOP_MODES = ("ends",)  # one picture's latent conditions the first and the last frame; the last is not shown


class DynamiCrafterModel(DynamiCrafterNetworks):
    """Image-to-video model; ``interpolation`` adds loops and interpolation, gates add box tracks."""

    def __init__(self, config: ModelConfig, policy: ComputePolicy | None = None):
        super().__init__(config, policy)
        self.takes_tracks = self.has_boxes
        self.required = ("image", "tracks") if self.has_boxes else ("image",)
        own = ["frame_stride" if config.reads_stride else "fps_condition", "picture_fit", "shared_image_tokens"]
        own += ["end_image"] if config.interpolation else []
        own += ["undo_rescale"] if config.dynamic_rescale != 1 else []
        self.own_options = dict.fromkeys(own, ()) | ({"loop": LOOP_MODES} if config.interpolation else {})
        v_model = config.prediction_type == "v_prediction"
        self.sampling_defaults = {
            **type(self).sampling_defaults,
            "eta": 1.0,
            "timestep_spacing": "trailing" if config.zero_terminal_snr else "leading",
            "guidance_rescale": 0.7 if v_model else 0.0,
            "decode_chunk_size": config.decode_chunk_size,
            # boxes are relative to the whole picture
            "picture_fit": "stretch" if self.has_boxes else "crop",
            own[0]: config.frame_rate,
        }

    def resolve(self, options: SamplingOptions) -> SamplingOptions:
        """Resolves options as the base class does, and checks the number of frames and the fit of the picture.

        Raises:
            SMCDError: An option is invalid, or the model cannot use this window or this fit.
        """
        if options.shared_image_tokens and options.window is None:
            options = options.updated({"window": options.num_frames})
        options = super().resolve(options)
        made = self.config.frames
        if options.num_frames < 2:
            refuse("num_frames", options.num_frames, "be at least 2")
        if options.window != made and not options.shared_image_tokens:
            refuse("window", options.window, f"be {made} for this model, unless shared_image_tokens is set")
        if self.has_boxes and options.picture_fit != "stretch":
            refuse("picture_fit", options.picture_fit, "be 'stretch' with tracks, which are relative to the picture")
        return options

    def fit_picture(self, picture: UInt8[np.ndarray, "y x 3"], options: SamplingOptions) -> FittedPicture:
        """Returns the picture cropped, with bars or distorted, as ``picture_fit`` selects."""
        return fit_picture(picture, height=options.height, width=options.width, fit=options.picture_fit)

    def null_raw(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """Returns token ids of the null prompt, and the zero picture, mid grey."""
        return {**super().null_raw(tokenizer), "null_picture": self._zero_picture(1)}

    def plan(self, request: Request, tokenizer: Tokenizer) -> SamplingPlan:
        """Returns token ids, the pictures, the index of the latent concatenated to each frame, and boxes.

        Raises:
            SMCDError: The model interpolates and the request has neither an end picture nor a loop, or has both; or
                its number of frames is not the model's.
        """
        config, count, options = self.config, len(request.prompts), request.options
        self._check_ends(options)
        side, frames = config.autoencoder.downscale, self._frames(request)
        negative = [self.null_prompt if text is None else text for text in request.negative_prompts]
        ends = [] if request.end_pictures is None else [request.end_pictures]
        rate = options.frame_stride if config.reads_stride else options.fps_condition
        raw = {
            "video": np.stack([request.pictures, *ends], axis=1),
            "picture": self._seen(request),
            "null_picture": self._zero_picture(count),
            "token_ids": self._ids(tokenizer, request.prompts),
            "null_ids": self._ids(tokenizer, negative),
            "latent_source": np.repeat(self._latent_source(frames, last=len(ends))[None], count, axis=0),
            "frame_rate": np.full(count, rate, np.float32),
        }
        if self.has_boxes:
            raw |= self._boxes(request, tokenizer, frames)
        height, width = request.pictures.shape[1:3]
        keep = frames - 1 if options.loop else request.num_frames
        return SamplingPlan(
            raw,
            latent_shape=(frames, height // side, width // side, config.autoencoder.latent_channels),
            notes=self._cut_texts(tokenizer, (*request.prompts, *negative)),
            keep_frames=None if keep == frames else tuple(range(keep)),
        )

    def _check_ends(self, options: SamplingOptions) -> None:
        if not self.config.interpolation:
            return
        if (options.end_image is None) == (not options.loop):
            given = "both" if options.loop else None
            refuse("end_image", given, "be given to a model that interpolates, or loop instead of it")
        if options.num_frames != self.config.frames and not options.shared_image_tokens:
            refuse("num_frames", options.num_frames, f"be {self.config.frames} for a video with a given end")

    def _frames(self, request: Request) -> int:
        """Returns the number of frames to sample; a shorter video is the start of one with the training length."""
        frames = request.num_frames
        return frames if request.options.shared_image_tokens else max(frames, self.config.frames)

    def _latent_source(self, frames: int, *, last: int) -> Int[np.ndarray, " f"]:
        source = np.zeros(frames, np.int32)
        if self.config.interpolation:
            source[1:-1], source[-1] = NO_SOURCE, last
        return source

    def _seen(self, request: Request) -> np.ndarray:
        """Returns the pictures for the image tower; with the fit "gui", the uncropped originals."""
        pictures = request.originals if request.options.picture_fit == "gui" else request.pictures
        return np.stack([whole_picture(picture, self.config.image_tower.picture_size) for picture in pictures])

    def _zero_picture(self, count: int) -> np.ndarray:
        size = self.config.image_tower.picture_size
        return np.zeros((count, size, size, 3), np.float32)

    def _boxes(self, request: Request, tokenizer: Tokenizer, frames: int) -> dict[str, np.ndarray]:
        padded = [self._padded(_held(tracks, frames), frames) for tracks in request.tracks]
        boxes, mask = (np.stack(part).astype(np.float32) for part in zip(*padded, strict=True))
        labels = np.zeros((len(padded), self.config.max_objects, self.config.text_length), np.int32)
        for row, tracks in zip(labels, request.tracks, strict=True):
            if tracks is not None:
                row[: tracks.num_objects] = self._ids(tokenizer, tracks.labels)
        return {"boxes": boxes, "mask": mask, "label_ids": labels}


def _held(tracks: BoxTracks | None, frames: int) -> Any:
    """Returns tracks extended to the number of sampled frames; boxes stay at their last position."""
    if tracks is None or tracks.num_frames == frames:
        return tracks
    index = np.minimum(np.arange(frames), tracks.num_frames - 1)
    return BoxTracks(tracks.boxes[index], tracks.mask[index], tracks.labels)
