"""VideoPipeline: picture, prompt and tracks in, video out, for any model family."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.guidance import Guidance
from smcd_jax.diffusion.samplers import SamplerState, SolverTable, initial_state
from smcd_jax.diffusion.sampling import initial_noise, on_device, sample
from smcd_jax.diffusion.windows import Windows, make_windows
from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.branches import branch_inputs, branch_outputs, windowed_branch_outputs
from smcd_jax.models.video_model import Context, Inputs, Request, SamplingPlan
from smcd_jax.motion import Motion
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.low_rank import adapter_digest, check_adapter, load_adapter
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.pipeline.clock import Clock
from smcd_jax.pipeline.components import Components
from smcd_jax.pipeline.features import encode_features
from smcd_jax.pipeline.frames import OutputType, as_output, replace_first_frame
from smcd_jax.pipeline.partial_sample import PartialSample
from smcd_jax.pipeline.rendering import Rendering
from smcd_jax.pipeline.request import make_request
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.progress import Progress, as_progress
from smcd_jax.sampling_options import SamplingOptions, one_of

logger = logging.getLogger(__name__)

# On accelerators. Each call joins and transposes weights once, before its first step; between calls, progress is shown
# and interrupts take effect.
STEPS_PER_CALL = 10
StepCallback = Callable[["VideoPipeline", int, float, dict[str, Any]], dict[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class VideoOutput:
    """Result of a call.

    Attributes:
        frames: Videos, by output type: "np" float32 [b, f, h, w, 3] in 0..1; "uint8" the same in 0..255; "pil" a list
            of lists of pictures; "latent" scaled latents [b, f, h, w, c].
        latents: Scaled latents of the frames, whatever the output type; None if the motion comes from a file.
        motion: Motion of the frames (`smcd_jax.motion.Motion`) as played, for models with motion fields and
            output types other than "latent".
        request: The checked inputs.
        notes: Remarks about the inputs, one line each.
        seconds: Seconds spent in load, compile, encode, denoise and decode.
    """

    frames: Any
    latents: np.ndarray | None
    request: Request
    notes: tuple[str, ...]
    seconds: dict[str, float]
    motion: Motion | None = None


class _Loop(NamedTuple):
    callback: StepCallback | None
    resume: PartialSample | None
    on_interrupt: Callable[[PartialSample], None] | None


class VideoPipeline(Rendering):
    """Animates a picture with the model of a model folder.

        pipe = VideoPipeline.from_pretrained("tiny")
        video = pipe("rocket.png", "a rocket lifting off", tracks="tracks.json", seed=7).frames[0]

    Components are read from the model folder when first needed. With ``keep_loaded=False`` each is freed after use, so
    memory holds at most the largest component instead of all of them.

    Attributes:
        folder: The model folder.
        model: Its model.
        components: Weights and compiled programs.
    """

    def __init__(
        self,
        folder: ModelFolder,
        *,
        dtype: str | None = None,
        verify: bool = True,
        keep_loaded: bool = True,
        adapter: str | os.PathLike[str] | None = None,
        adapter_scale: float = 1.0,
    ):
        self.folder, self.config = folder, folder.config
        self.adapter = None if adapter is None else load_adapter(adapter)
        self.adapter_scale = adapter_scale
        if self.adapter is not None:
            parts = folder.config.components()
            check_adapter(self.adapter, tuple(parts), lambda name: flatten(abstract_params(parts[name])), path=adapter)
        self.policy = ComputePolicy.for_device(dtype)
        self.model = folder.model(self.policy)
        self.tokenizer = folder.tokenizer()
        low_rank = {"adapter": self.adapter, "adapter_scale": adapter_scale}
        self.components = Components(folder, self.policy, verify=verify, keep_loaded=keep_loaded, **low_rank)
        enable_compile_cache()

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        verify: bool = True,
        keep_loaded: bool = True,
        adapter: str | os.PathLike[str] | None = None,
        adapter_scale: float = 1.0,
    ) -> VideoPipeline:
        """Opens a model folder.

        Args:
            path: Model folder, or the name of one that comes with the package ("small", "tiny" or "lvmm_tiny").
            dtype: "float32" or "bfloat16"; by default bfloat16 on accelerators and float32 on CPU.
            verify: Whether to compare every array with its checksum while reading.
            keep_loaded: Whether components stay in memory between uses and calls.
            adapter: Low-rank adapter that is added to the weights, a file written by ``smcd export --adapter``.
            adapter_scale: Factor of the adapter's updates.

        Raises:
            SMCDError: There is no model folder at ``path``, this release cannot read it, or the adapter belongs to
                another model.
        """
        low_rank = {"adapter": adapter, "adapter_scale": adapter_scale}
        return cls(ModelFolder(path), dtype=dtype, verify=verify, keep_loaded=keep_loaded, **low_rank)

    def __call__(
        self,
        image: Any,
        prompt: str | Sequence[str] | None = None,
        *,
        tracks: Any = None,
        options: SamplingOptions | None = None,
        guidance: Guidance | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: StepCallback | None = None,
        before_decode: Callable[[np.ndarray], None] | None = None,
        resume: PartialSample | None = None,
        on_interrupt: Callable[[PartialSample], None] | None = None,
        progress: bool | Progress = False,
        **overrides: Any,
    ) -> VideoOutput:
        """Generates videos.

        Args:
            image: First frame: a path, PIL picture or array, or a list of them for a batch.
            prompt: Description of what happens; by default the prompt of the tracks.
            tracks: `BoxTracks`, a path in any format that `smcd_jax.tracks.load_tracks` reads, or a list of them.
            options: Sampling options; by default the model's own.
            guidance: Guidance branches and weights, in place of the guidance scales.
            output_type: "np", "uint8", "pil", "latent", or "motion" for no frames but their motion.
            callback_on_step_end: Function called after each step with (pipeline, step, timestep, {"latents": ...}); it
                may return a dict with other latents.
            before_decode: Function called with the final latents, so that they can be kept if decoding fails.
            resume: Interrupted sample of the same request; sampling continues after its last complete step.
            on_interrupt: Function called with the state of the last complete step if sampling is interrupted.
            progress: True for progress bars, or a `smcd_jax.runtime.progress.Progress`.
            **overrides: Fields of `SamplingOptions`, such as ``seed`` or ``loop``, in place of those in ``options``.

        Raises:
            SMCDError: An argument is wrong, weights are damaged, or the sample is not finite.
        """
        known = tuple(name for name in get_args(OutputType) if name != "motion" or self.model.field_shape)
        one_of(*known)("output_type", output_type)
        self.components.progress = as_progress(progress)
        options = (options or SamplingOptions()).updated(overrides)
        request = make_request(self.model, image=image, prompt=prompt, tracks=tracks, options=options)
        options = request.options
        plan = self.model.plan(request, self.tokenizer)
        notes = (*request.notes, *plan.notes)
        for note in notes:
            logger.warning("%s", note)
        clock = Clock(self.components.load_and_compile_seconds)
        latents = inputs = None
        if options.motion_from is None:
            guidance = guidance or self.model.guidance(options.as_dict())
            loop = _Loop(callback_on_step_end, resume, on_interrupt)
            latents, inputs = self._sample(request, plan, clock, guidance=guidance, loop=loop)
            if before_decode is not None:
                before_decode(latents)
        frames, motion = latents, None
        if output_type != "latent":
            inputs = self.model.picture_inputs(request.pictures) if inputs is None else inputs
            with clock.stage("decode"):
                decoded = self.decoded(latents, inputs, options)
                motion = decoded if self.model.field_shape else None
                if output_type != "motion":
                    frames = self.render_decoded(decoded, inputs, chunk_size=options.decode_chunk_size)
            for note in self.model.decoded_notes(decoded):
                logger.warning("%s", note)
                notes = (*notes, note)
            if options.replace_first_frame and output_type != "motion":
                frames, note = replace_first_frame(frames, request.pictures)
                logger.warning("%s", note)
                notes = (*notes, note)
            frames = motion if output_type == "motion" else as_output(frames, output_type)
        return VideoOutput(frames, latents, request, notes, clock.seconds(), motion)

    def _sample(
        self,
        request: Request,
        plan: SamplingPlan,
        clock: Clock,
        *,
        guidance: Guidance,
        loop: _Loop,
    ) -> tuple[np.ndarray, Inputs]:
        """Returns the latents of a request, and its inputs."""
        options, denoisers = request.options, self.model.in_stage("denoise")
        table, windows = self.model.solver_table(options), None
        if options.num_frames > options.window:
            windows = make_windows(plan.latent_shape[0], window=options.window, overlap=options.window_overlap)
        with clock.stage("encode"):
            inputs = self.encode_inputs(plan, request.seeds)
            context = self.encode(inputs, guidance, windows)
        params = self.components.params_of(denoisers)
        if windows is None:
            with clock.stage("encode"):
                context = self.components.program("precompute", self.model.precompute)(params, context)
        with clock.stage("denoise"):
            settings = {"table": table, "guidance": guidance, "options": options, "loop": loop}
            settings |= {"shape": plan.latent_shape, "windows": windows, "seeds": request.seeds}
            latents = self._denoise(params, context, **settings)
        if plan.keep_frames is not None:
            latents = latents[:, list(plan.keep_frames)]
        del params, context
        self.components.release(*denoisers)
        return latents, inputs

    def encode_inputs(self, plan: SamplingPlan, seeds: Sequence[int]) -> Inputs:
        """Returns the conditions of a request, from the frozen encoders."""
        return self.model.inputs(encode_features(self.model, self.components, plan.raw, seeds))

    def encode(self, inputs: Inputs, guidance: Guidance, windows: Windows | None = None) -> Context:
        """Returns the tokens of every guidance branch, computed before the denoising network takes up memory.

        Args:
            inputs: Conditions of the request.
            guidance: Guidance branches.
            windows: Windows of a long video, whose tokens are stacked on a new leading axis; None for one window.
        """
        names = self.model.in_stage("encode")
        params = self.components.params_of(names)

        def encode(params: Any, inputs: Inputs, frames: Any) -> Context:
            return self.model.encode(params, branch_inputs(self.model, inputs, guidance.branches), frames)

        program = self.components.program(("encode", guidance.branches), encode)
        if windows is None:
            context = program(params, inputs, None)
        else:
            contexts = [program(params, inputs, frames) for frames in windows.frames]
            context = jax.tree.map(lambda *parts: jnp.stack(parts), *contexts)
        self.components.release(*names)
        return context

    @property
    def adapter_description(self) -> dict[str, Any]:
        """Returns the entry of the adapter in the description of a video; empty without an adapter."""
        if self.adapter is None:
            return {}
        return {"adapter": {"sha256": adapter_digest(self.adapter), "scale": self.adapter_scale}}

    def load(self, *, progress: bool | Progress = False) -> None:
        """Reads every component that sampling needs, so that damage is detected before the first sample."""
        self.components.progress = as_progress(progress)
        self.components.params_of(self.model.in_stage("features", "encode", "denoise", "decode"))

    def _denoise(
        self,
        params: dict[str, Any],
        context: Context,
        *,
        shape: tuple[int, ...],
        windows: Windows | None,
        seeds: Sequence[int],
        table: SolverTable,
        guidance: Guidance,
        options: SamplingOptions,
        loop: _Loop,
    ) -> np.ndarray:
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        state = initial_state(initial_noise(keys, shape, num_rows=table.timesteps.size))
        first, state = loop.resume or PartialSample(0, state)
        settings = {"table": on_device(table), "weights": jnp.asarray(guidance.weights, jnp.float32), "keys": keys}
        branches, transform = len(guidance.branches), self.model.x0_transform(options)
        fixed = {"guidance_rescale": options.guidance_rescale}

        def steps(params: Any, state: SamplerState, context: Any, settings: Any, start: Any, stop: Any) -> SamplerState:
            context, windows = context
            if windows is None:
                predict = branch_outputs(self.model, params, context, branches)
            else:
                predict = windowed_branch_outputs(self.model, params, context, windows, branches)
            with_arrays = transform and functools.partial(transform, params=params, context=context)
            return sample(predict, state, start=start, stop=stop, x0_transform=with_arrays, **fixed, **settings)

        program = self.components.program(("denoise", branches, options.guidance_rescale, transform), steps)
        context = (context, windows)
        program.program(params, state, context, settings, np.int32(0), np.int32(1))
        self.components.release()  # frees memory left over from compiling
        size = 1 if loop.callback is not None or jax.default_backend() == "cpu" else STEPS_PER_CALL
        done = first
        try:
            with self.components.progress.stage("denoise", table.num_steps, "step") as advance:
                for _ in range(first):
                    advance()
                for start in range(first, table.num_steps, size):
                    stop = min(start + size, table.num_steps)
                    after = program(params, state, context, settings, np.int32(start), np.int32(stop))
                    if loop.callback is not None:
                        after = self._call_back(loop.callback, start, float(table.timesteps[start]), after)
                    if self.components.progress.live:
                        jax.block_until_ready(after.latents)
                    state, done = after, stop
                    for _ in range(start, stop):
                        advance()
                jax.block_until_ready(state.latents)
        except BaseException:
            if loop.on_interrupt is not None and done > first:
                loop.on_interrupt(PartialSample(done, state))
            raise
        latents = np.asarray(state.latents)
        if not np.isfinite(latents).all():
            raise SMCDError(
                "the sample is not finite (NaN or infinity); use --dtype float32, lower guidance scales or other "
                "weights",
                argument="guidance_scale",
            )
        return latents

    def _call_back(self, callback: StepCallback, step: int, timestep: float, state: SamplerState) -> SamplerState:
        changed = callback(self, step, timestep, {"latents": np.asarray(state.latents)}) or {}
        return state._replace(latents=jnp.asarray(changed["latents"])) if "latents" in changed else state
