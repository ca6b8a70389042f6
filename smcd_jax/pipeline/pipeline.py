"""SMCDPipeline: picture, prompt and tracks in, video out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.guidance import Guidance, composed_guidance
from smcd_jax.diffusion.samplers import Sampler, SamplerState, SolverTable, initial_state, make_solver_table
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.diffusion.timesteps import Spacing
from smcd_jax.errors import SMCDError
from smcd_jax.media import to_uint8
from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.pipeline.clock import Clock
from smcd_jax.pipeline.components import Components
from smcd_jax.pipeline.conditions import (
    BranchTokens,
    ConditionInputs,
    SamplingConditions,
    encode_conditions,
    encode_tokens,
)
from smcd_jax.pipeline.denoise import denoise
from smcd_jax.pipeline.encoders import Encoders
from smcd_jax.pipeline.request import Request, check_whole, make_request
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.progress import Bars, Progress

OutputType = Literal["np", "uint8", "pil", "latent"]
StepCallback = Callable[["SMCDPipeline", int, float, dict[str, Any]], dict[str, Any] | None]
DENOISERS = ("unet", "controlnet")  # what the denoising loop runs
CONDITIONERS = ("position_net", "image_encoder")  # what its conditions need besides


@dataclasses.dataclass(frozen=True)
class VideoOutput:
    """What a call returns.

    Attributes:
        frames: by output type: "np" float32 [b, f, h, w, 3] in 0..1; "uint8" the same in 0..255; "pil" a list of lists
            of pictures; "latent" scaled latents [b, f, h/8, w/8, 4].
        latents: scaled latents, whatever the output type.
        request: the checked inputs.
        seconds: spent in load, compile, encode, denoise and decode.
    """

    frames: Any
    latents: np.ndarray
    request: Request
    seconds: dict[str, float]


class SMCDPipeline:
    """Animates a picture along box tracks.

        pipe = SMCDPipeline.from_pretrained("tiny")
        video = pipe("rocket.png", "a rocket lifting off", "tracks.json").frames[0]

    Components are read from the model folder when first needed. With ``keep_loaded=False`` each is let go after use, so
    that memory holds the largest one and not their sum.
    """

    def __init__(self, folder: ModelFolder, *, dtype: str | None = None, verify: bool = True, keep_loaded: bool = True):
        self.folder, self.config = folder, folder.config
        self.policy = ComputePolicy.for_device(dtype)
        self.schedule = NoiseSchedule(prediction_type=self.config.prediction_type)
        self.tokenizer = folder.tokenizer()
        self.components = Components(folder, self.policy, verify=verify, keep_loaded=keep_loaded)
        self.networks = self.components.networks
        self._encoders = Encoders(self.components, self.config, self.tokenizer)
        enable_compile_cache()

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, dtype: str | None = None, verify: bool = True, keep_loaded: bool = True
    ) -> SMCDPipeline:
        """Opens a model folder.

        Args:
            path: a model folder, or the name of one that comes with the package ("tiny").
            dtype: "float32" or "bfloat16"; by default bfloat16 on accelerators and float32 on CPU.
            verify: compare every array with its checksum while reading.
            keep_loaded: keep components in memory between uses and calls.

        Raises:
            SMCDError: no model folder there, or not one this release reads.
        """
        return cls(ModelFolder(path), dtype=dtype, verify=verify, keep_loaded=keep_loaded)

    def __call__(
        self,
        image: Any,
        prompt: str | Sequence[str] | None = None,
        tracks: Any = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.0,
        box_guidance_scale: float = 1.0,
        guidance: Guidance | None = None,
        guidance_rescale: float = 0.0,
        scheduler: Sampler = "ddim",
        timestep_spacing: Spacing = "leading",
        rescale_zero_terminal_snr: bool = False,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_videos_per_prompt: int = 1,
        seed: int | Sequence[int] = 0,
        output_type: OutputType = "np",
        decode_chunk_size: int = 8,
        callback_on_step_end: StepCallback | None = None,
        before_decode: Callable[[np.ndarray], None] | None = None,
        progress: bool | Progress = False,
    ) -> VideoOutput:
        """Makes videos.

        Args:
            image: the first frame: a path, PIL picture or array, or a list of them for a batch.
            prompt: what happens; by default the prompt of the tracks.
            tracks: `BoxTracks`, or a path in any format `smcd_jax.tracks.load_tracks` reads, or a list of them.
            negative_prompt: what the text-free guidance branches see instead of the null text.
            num_inference_steps: 1 to 1000.
            guidance_scale: of text; 1 is no guidance.
            image_guidance_scale: of the first frame; 1 as in the paper.
            box_guidance_scale: of the boxes; 1 as in the paper.
            guidance: branches and weights of your own (see `smcd_jax.diffusion.guidance`), instead of the three scales.
            guidance_rescale: 0..1, against overexposure at high scales (arXiv 2305.08891, section 3.4).
            scheduler: "ddim" (the paper's), "euler", "dpmsolver++" or "unipc".
            timestep_spacing: "leading" (the paper's), "trailing", "linspace" or "reference".
            rescale_zero_terminal_snr: for models trained so; needs v or x0 prediction.
            eta: 0 to 1, noise added back at each step of DDIM.
            height: pixels; by default the model's.
            width: pixels; by default the model's.
            num_frames: by default the model's.
            num_videos_per_prompt: videos for each example, of seeds counted up.
            seed: of the first video, or one per video. A video depends on its own seed, not on its place in a batch.
            output_type: "np", "uint8", "pil" or "latent".
            decode_chunk_size: frames decoded at once; fewer need less memory.
            callback_on_step_end: called after each step with (pipeline, step, timestep, {"latents": ...}); may return a
                dict with other latents.
            before_decode: called with the final latents, so that they can be kept if decoding fails.
            progress: True shows bars; or a `smcd_jax.runtime.progress.Progress` of your own.

        Raises:
            SMCDError: naming the argument, what is wrong with it and what to do.
        """
        if output_type not in ("np", "uint8", "pil", "latent"):
            raise SMCDError(f"output_type is {output_type!r}; use np, uint8, pil or latent")
        for name, value in (("decode_chunk_size", decode_chunk_size), ("num_inference_steps", num_inference_steps)):
            check_whole(name, value)
        if decode_chunk_size < 1:
            raise SMCDError(f"decode_chunk_size is {decode_chunk_size}; use 1 or more")
        if not 0 <= guidance_rescale <= 1:
            raise SMCDError(f"guidance_rescale is {guidance_rescale}; use a number from 0 to 1")
        self.components.progress = _progress(progress)
        request = make_request(
            self.config,
            image=image,
            prompt=prompt,
            tracks=tracks,
            negative_prompt=negative_prompt,
            num_videos_per_prompt=num_videos_per_prompt,
            seed=seed,
            height=height,
            width=width,
            num_frames=num_frames,
        )
        schedule = dataclasses.replace(self.schedule, rescale_zero_terminal_snr=rescale_zero_terminal_snr)
        table = make_solver_table(
            schedule, sampler=scheduler, num_steps=num_inference_steps, spacing=timestep_spacing, eta=eta
        )
        if guidance is None:
            guidance = composed_guidance(
                guidance_scale=guidance_scale,
                image_guidance_scale=image_guidance_scale,
                box_guidance_scale=box_guidance_scale,
            )

        clock = Clock(self.components.load_and_compile_seconds)
        with clock.stage("encode"):
            tokens = self.encode_tokens(self.encode_inputs(request), guidance)
        params = {name: self.components.params(name) for name in DENOISERS if name in self.networks}
        with clock.stage("encode"):
            conditions = self.encode_conditions(params, tokens)
        with clock.stage("denoise"):
            latents = self._denoise(
                params,
                conditions,
                shape=(request.boxes.shape[1], *tokens.image_latent.shape[1:]),
                seeds=request.seeds,
                table=table,
                guidance=guidance,
                guidance_rescale=guidance_rescale,
                callback=callback_on_step_end,
            )
        del params, conditions
        self.components.release(*DENOISERS)
        if before_decode is not None:
            before_decode(latents)
        frames = latents
        if output_type != "latent":
            with clock.stage("decode"):
                frames = self.decode(latents, chunk_size=decode_chunk_size, progress=self.components.progress)
            frames = _as_output(frames, output_type)
        return VideoOutput(frames, latents, request, clock.seconds())

    def encode_inputs(self, request: Request) -> ConditionInputs:
        """Text, labels and first frames through their encoders."""
        return self._encoders(request)

    def encode_tokens(self, inputs: ConditionInputs, guidance: Guidance) -> BranchTokens:
        """Box tokens and image tokens of every guidance branch; done before the UNet takes its memory."""
        names = [name for name in CONDITIONERS if name in self.networks]
        networks = {name: self.networks[name] for name in names}
        program = self.components.program(
            ("tokens", guidance.branches),
            lambda params, inputs: encode_tokens(networks, params, inputs, guidance.branches),
        )
        tokens = program({name: self.components.params(name) for name in names}, inputs)
        self.components.release(*CONDITIONERS)
        return tokens

    def encode_conditions(self, params: dict[str, Any], tokens: BranchTokens) -> SamplingConditions:
        """Keys and values of every guidance branch (`smcd_jax.pipeline.conditions`)."""
        networks = {name: self.networks[name] for name in params}
        program = self.components.program(
            "conditions", lambda params, tokens: encode_conditions(networks, params, tokens)
        )
        return program(params, tokens)

    def load(self, *, progress: bool | Progress = False) -> None:
        """Reads every component that sampling needs, so that damage shows before the first sample and not during it."""
        self.components.progress = _progress(progress)
        for name in self.networks:
            if name in (*DENOISERS, *CONDITIONERS, "autoencoder", "text_encoder"):
                self.components.params(name)

    def decode(self, latents: np.ndarray, *, chunk_size: int = 8, progress: bool | Progress = False) -> np.ndarray:
        """uint8 frames [b, f, H, W, 3] of scaled latents [b, f, h, w, 4]; one program serves all chunks."""
        self.components.progress = _progress(progress)
        params, module = self.components.params("autoencoder"), self.networks["autoencoder"]
        program = self.components.program(
            "decode", lambda params, z: module.apply({"params": params}, z, method="decode")
        )
        flat = latents.reshape(-1, *latents.shape[2:]).astype(np.float32)
        size = min(chunk_size, len(flat))
        program.program(params, flat[:size])
        starts = range(0, len(flat), size)
        frames = []
        with self.components.progress.stage("decode", len(starts), "chunk") as advance:
            for start in starts:
                chunk = flat[start : start + size]
                filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
                frames.append(to_uint8(np.asarray(program(params, filled))[: len(chunk)]))
                advance()
        self.components.release("autoencoder")
        frames = np.concatenate(frames)
        return frames.reshape(*latents.shape[:2], *frames.shape[1:])

    def _denoise(
        self,
        params: dict[str, Any],
        conditions: SamplingConditions,
        *,
        shape: tuple[int, ...],
        seeds: Sequence[int],
        table: SolverTable,
        guidance: Guidance,
        guidance_rescale: float,
        callback: StepCallback | None,
    ) -> np.ndarray:
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, table.timesteps.size), shape))(keys)
        state = initial_state(noise)
        rows = jax.tree.map(jnp.asarray, table._replace(num_steps=np.int32(table.num_steps)))
        weights = jnp.asarray(guidance.weights, jnp.float32)
        networks = {name: self.networks[name] for name in params}

        def steps(
            params: Any, state: Any, conditions: Any, rows: Any, weights: Any, keys: Any, start: Any, stop: Any
        ) -> Any:
            return denoise(
                networks,
                params,
                state,
                conditions,
                table=rows,
                weights=weights,
                keys=keys,
                start=start,
                stop=stop,
                guidance_rescale=guidance_rescale,
            )

        program = self.components.program(("denoise", guidance_rescale), steps)
        program.program(params, state, conditions, rows, weights, keys, np.int32(0), np.int32(1))
        self.components.release()  # what the compiler has used
        with self.components.progress.stage("denoise", table.num_steps, "step") as advance:
            for step in range(table.num_steps):
                begin, end = np.int32(step), np.int32(step + 1)
                state = program(params, state, conditions, rows, weights, keys, begin, end)
                if callback is not None:
                    state = self._call_back(callback, step, float(table.timesteps[step]), state)
                if self.components.progress.live:
                    jax.block_until_ready(state.latents)
                advance()
            jax.block_until_ready(state.latents)
        latents = np.asarray(state.latents)
        if not np.isfinite(latents).all():
            raise SMCDError(
                "the sample is not finite (NaN or infinity); use --dtype float32, lower guidance scales, other weights"
            )
        return latents

    def _call_back(self, callback: StepCallback, step: int, timestep: float, state: SamplerState) -> SamplerState:
        changed = callback(self, step, timestep, {"latents": np.asarray(state.latents)}) or {}
        return state._replace(latents=jnp.asarray(changed["latents"])) if "latents" in changed else state


def _progress(progress: bool | Progress) -> Progress:
    if isinstance(progress, Progress):
        return progress
    return Bars() if progress else Progress()


def _as_output(frames: np.ndarray, output_type: OutputType) -> Any:
    if output_type == "np":
        return frames.astype(np.float32) / 255
    if output_type == "pil":
        from PIL import Image

        return [[Image.fromarray(frame) for frame in video] for video in frames]
    return frames
