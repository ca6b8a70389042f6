"""Config of a training run: frozen dataclasses with defaults, config files, and overrides from the command line.

A config file defines ``get_config(preset)``, which returns an `ml_collections.ConfigDict` with exactly these keys; it
starts from `default_config`. Files and overrides are checked against the dataclasses.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from smcd_jax.diffusion.guidance import resolve_scales
from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.models.registry import get_family, make_model, preset_family, presets
from smcd_jax.runtime.sharding import MeshShape
from smcd_jax.training.config_overrides import apply_override


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Training data.

    Attributes:
        records: Folders made by ``smcd prepare``.
        weights: Sampling weight of each folder; empty to weight each folder by its number of clips.
        split: Name of the training split.
        validation_split: Names of splits for the validation loss and samples, separated by commas. Each folder
            contributes the first of them that it has; folders without any are skipped.
        inputs: "features" reads latents and text embeddings from the cache; "latents" reads latents from the cache and
            encodes texts in the step, to train the text encoder; "video" encodes everything in the step.
        features: Name of the cache folder within each folder of records.
        frames: Number of frames per example.
        batch_size: Number of examples per step, over all devices and processes.
        crop_keep: Smallest fraction of the area kept by random crops, in (0, 1], for inputs "video"; 1 for no crops.
        short_clips: Rule for clips shorter than ``frames``: "leave_out", or "hold" to repeat the last frame.
        fields: Whether examples contain true motion fields; requires inputs "video" and records that store them.
        frame_rate: Whether the model gets each clip's own frame rate; has the same requirements as ``fields``.
        epoch_length: Number of examples per epoch; 0 for the number of clips.
        max_bad_share: Largest share of damaged clips per folder, 0..1.
        threads: Number of threads that load examples; 0 for one per core.
    """

    records: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    split: str = "train"
    validation_split: str = "val,holdout"
    inputs: Literal["features", "latents", "video"] = "features"
    features: str = "features"
    frames: int = 8
    batch_size: int = 16
    crop_keep: float = 1.0
    short_clips: Literal["leave_out", "hold"] = "leave_out"
    fields: bool = False
    frame_rate: bool = False
    epoch_length: int = 0
    max_bad_share: float = 0.01
    threads: int = 0


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Starting point of training.

    Attributes:
        model: Model folder, or the name of a shipped model; empty to train everything from scratch.
        from_scratch: Path patterns of parameters that the folder may lack, and that are then initialized randomly.
        gates: Initial value of gates from scratch; 0 in the paper, but 0.1 to 0.3 speeds up such training.
    """

    model: str = ""
    from_scratch: tuple[str, ...] = ()
    gates: float = 0.0


@dataclasses.dataclass(frozen=True)
class LowRankConfig:
    """Low-rank adaptation (`smcd_jax.nn.low_rank`), which is trained with ``trainable=("low_rank/.*",)``.

    Attributes:
        rank: Rank of the updates; 0 disables low-rank adaptation.
        kernels: Path patterns of the kernels that are updated; each must match at least one kernel.
    """

    rank: int = 0
    kernels: tuple[str, ...] = (r"unet/.+/(self|cross)_attention/(query|key|value|out)/kernel",)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss.

    Attributes:
        min_snr_gamma: Gamma of `smcd_jax.diffusion.loss.min_snr_weights`; None for equal weights, as in the reference.
        noise_offset: Offset of `smcd_jax.diffusion.loss.training_noise`; 0 in the reference.
        kl_weight: Weight of the KL divergence of the autoencoder's posterior from a unit Gaussian, per latent value.
        edge_weight: Weight of the autoencoder's error in differences between neighboring pixels.
        field_weight: Weight of the error of predicted motion fields, for data with true fields.
    """

    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    kl_weight: float = 1e-6
    edge_weight: float = 1.0
    field_weight: float = 10.0


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Few-step distillation, for the objective "distill" (`smcd_jax.training.distill`).

    Attributes:
        num_inference_steps: Number of sampling steps of the student, at least 1.
        teacher_steps: Number of teacher steps that one student step replaces, at least 1.
        guidance: Guidance scales of the teacher, by name of the sampling option.
    """

    num_inference_steps: int = 4
    teacher_steps: int = 4
    guidance: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; the defaults are the published settings of stage 2.

    Attributes:
        learning_rate: Learning rate after the warm-up, greater than 0.
        schedule: "constant", or "cosine" to decay to ``end_lr_ratio`` of the learning rate at the last step.
        warmup_steps: Number of steps of linear warm-up from 0.
        end_lr_ratio: Ratio of the last to the highest learning rate for "cosine", 0..1.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Number added to the square root of the second moment.
        weight_decay: Decoupled weight decay of all trained parameters, as in PyTorch's AdamW.
        clip_norm: Largest global norm of the gradient; 0 for no clipping.
        grad_accum_steps: Number of parts that a batch is split into to save memory, at least 1.
        ema_decay: Decay of the moving average of the trained parameters, which is validated, sampled and exported;
            0 for no average. The decay of step n is at most (1 + n) / (10 + n), so that initial values fade quickly.
        gate_lr_scale: Factor of the updates of gates.
    """

    learning_rate: float = 5e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    end_lr_ratio: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    grad_accum_steps: int = 1
    ema_decay: float = 0.0
    gate_lr_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Length of a run and intervals in steps; an interval of 0 means never.

    Attributes:
        steps: Number of training steps.
        minutes: Time after which the run ends even if ``steps`` are not reached, compilation included; 0 for no limit.
            With a limit, the schedule "cosine" follows the time instead of the steps. Requires a single process.
        log_every: Interval of log lines and metrics, at least 1.
        validate_every: Interval of the validation loss, with fixed noise and timesteps.
        validation_examples: Number of examples for the validation loss, rounded up to whole batches.
        sample_every: Interval of sample videos, with boxes drawn.
        samples: Number of sample videos, of the first validation clips.
        sample_steps: Number of denoising steps per sample.
        guidance_scale: Guidance scale of the samples.
        save_every: Interval of checkpoints; one is also saved at the end and when the run is stopped.
        max_to_keep: Number of newest checkpoints to keep.
        keep_every: Interval of checkpoints that are never deleted.
        tensorboard: Whether to write TensorBoard event files.
        wandb: Whether to log to Weights & Biases, if it is installed.
    """

    steps: int = 60_000
    minutes: float = 0.0
    log_every: int = 50
    validate_every: int = 1000
    validation_examples: int = 64
    sample_every: int = 2000
    samples: int = 8
    sample_steps: int = 50
    guidance_scale: float = 7.5
    save_every: int = 1000
    max_to_keep: int = 3
    keep_every: int = 0
    tensorboard: bool = True
    wandb: bool = False


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        name: Name of the experiment.
        family: Name of the model family.
        model: Model config, a dataclass of the family.
        objective: "denoise", "distill", or an objective of the model such as "autoencoder".
        trainable: Path patterns of the trained parameters: regular expressions for whole paths, such as
            "unet/encoder_1/spatial/.*". Each must match a parameter.
        temporal: Whether temporal layers run; False in stage 1.
        seed: Seed of the data order, the noise and all other random numbers.
        dtype: Compute dtype, "float32" or "bfloat16"; empty for bfloat16 on accelerators and float32 on CPU. Frozen
            parameters are stored in it, trained ones in float32.
        remat: "none" stores all activations for the gradient; "blocks" recomputes those inside each block.
        dropout: Whether dropout is active; its rate belongs to the model.
        condition_dropout: Rate at which each condition is dropped, 0..1, by switch of the model.
        condition_dropout_unit: "example" drops for each example; "batch" for all at once, as in the reference.
        data: Training data.
        init: Starting point of training.
        loss: Weights of the loss.
        distill: Few-step distillation.
        optimizer: Optimizer.
        mesh: Size of the device mesh.
        run: Length of the run, and intervals in steps.
    """

    name: str = "run"
    family: str = "smcd"
    model: Any = None
    objective: str = "denoise"
    trainable: tuple[str, ...] = ()
    temporal: bool = True
    seed: int = 0
    dtype: str = ""
    remat: Literal["none", "blocks"] = "none"
    dropout: bool = True
    data: DataConfig = DataConfig()
    init: InitConfig = InitConfig()
    low_rank: LowRankConfig = LowRankConfig()
    condition_dropout: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    condition_dropout_unit: Literal["example", "batch"] = "example"
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    run: RunConfig = RunConfig()

    def __post_init__(self):
        if self.model is None:
            object.__setattr__(self, "model", get_family(self.family).presets[self.family])
        make_model(self.model).check_rates(self.condition_dropout)
        optimizer, run = self.optimizer, self.run
        checks = (
            (self.dtype in ("", "float32", "bfloat16"), "dtype", self.dtype, "be float32, bfloat16 or empty"),
            (run.steps >= 1, "run.steps", run.steps, "be at least 1"),
            (run.minutes >= 0, "run.minutes", run.minutes, "be at least 0"),
            (run.log_every >= 1, "run.log_every", run.log_every, "be at least 1"),
            (self.data.batch_size >= 1, "data.batch_size", self.data.batch_size, "be at least 1"),
            (
                optimizer.grad_accum_steps >= 1 and self.data.batch_size % optimizer.grad_accum_steps == 0,
                "optimizer.grad_accum_steps",
                optimizer.grad_accum_steps,
                f"be at least 1 and divide data.batch_size ({self.data.batch_size})",
            ),
            (
                run.validation_examples >= 1 or not run.validate_every,
                "run.validation_examples",
                run.validation_examples,
                "be at least 1 unless run.validate_every=0",
            ),
            (0 <= optimizer.ema_decay < 1, "optimizer.ema_decay", optimizer.ema_decay, "be at least 0 and below 1"),
        )
        for holds, key, value, condition in checks:
            if not holds:
                raise SMCDError(f"config: {key} must {condition}, got {value!r}", argument=key, value=value)


def default_config(preset: str = "smcd") -> ConfigDict:
    """Returns all keys with their defaults and the model of a preset ("smcd" or "tiny"), for a config file to modify.

    Raises:
        SMCDError: The preset is unknown.
    """
    known = presets()
    if preset not in known:
        message = f"config: unknown preset {preset!r}; known presets: {', '.join(sorted(known))}"
        raise SMCDError(message, argument="preset", value=preset)
    model, family = make_model(known[preset]), preset_family(preset)
    rates = dict.fromkeys(model.switches, 0.0)
    distill = DistillConfig(guidance=resolve_scales(model.conditions, {}))
    return ConfigDict(to_dict(TrainConfig(family=family, model=model.config, condition_dropout=rates, distill=distill)))


def load_config(path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Loads a config file.

    Args:
        path: "FILE.py" or "FILE.py:PRESET"; the preset is passed to the file's ``get_config``.
        overrides: Overrides as "KEY.OF.CONFIG=VALUE"; values are Python literals, anything else is text.

    Raises:
        SMCDError: The file does not exist or fails, or an override has an unknown key or a value of the wrong type.
    """
    file, _, preset = path.partition(":")
    if not Path(file).is_file():
        raise SMCDError(f"{file}: no such config file; the configs of the project are in configs/", path=file)
    if Path(file).suffix != ".py":
        raise SMCDError(f"{file}: a config must be a Python file, such as configs/smcd/stage2_scene.py", path=file)
    spec = importlib.util.spec_from_file_location("smcd_config", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            message = f"{file}: get_config() is missing; use a config such as configs/smcd/stage2_scene.py"
            raise SMCDError(message, argument="get_config", path=file)
        if preset and not inspect.signature(get_config).parameters:
            raise SMCDError(
                f"{file}: this config has no presets; remove :{preset}", argument="preset", path=file, value=preset
            )
        config = get_config(preset) if preset else get_config()
    except SMCDError:
        raise
    except Exception as error:  # the file is user code, which may raise anything
        raise SMCDError(f"{file}: {type(error).__name__}: {error}", path=file) from error
    if not isinstance(config, ConfigDict):
        raise SMCDError(
            f"{file}: get_config must return a ConfigDict (see default_config), got {type(config).__name__}",
            argument="get_config",
            path=file,
            value=type(config).__name__,
        )
    config.lock()
    for override in overrides:
        apply_override(config, override)
    return config_from_dict(config.to_dict())


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """Returns the config with these plain values, the inverse of `config_to_dict`."""
    family = get_family(values.get("family", "smcd"))
    return from_dict(TrainConfig, values, classes={"model": family.config_class})


def config_to_dict(config: TrainConfig) -> dict[str, Any]:
    """Returns a config as plain JSON values."""
    return to_dict(config)
