"""What a training run is made of, as frozen dataclasses with defaults, and how a config file becomes one.

A config file holds ``get_config(preset)`` and returns an `ml_collections.ConfigDict` with exactly these keys; it starts
from `default_config`. Whatever the command line overrides is checked against the same dataclasses.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from ml_collections import ConfigDict

from smcd_jax.errors import SMCDError
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.models.registry import get_family, make_model, preset_family, presets
from smcd_jax.runtime.sharding import MeshShape


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a batch is drawn from; frames are those of the model config unless stage 1 says otherwise.

    Attributes:
        records: folders made by ``smcd prepare``.
        weights: share of each folder, by default its number of clips.
        split: that is trained on.
        validation_split: that the validation loss and the samples are of: of each folder the first of these splits,
            separated by commas, that it has; folders that have none are passed over.
        inputs: "features" reads latents and text embeddings from the cache, "latents" reads latents from the cache and
            encodes texts online (to train the text tower), "video" encodes everything online.
        features: folder of the cache within each folder of records.
        frames: of a window.
        batch_size: examples of all devices and processes together.
        crop_keep: least share of the picture's area that a random crop keeps; 1 is no crop ("video" only).
        short_clips: "leave_out" or "hold" the last frame.
        epoch_length: examples; 0 for as many as there are clips.
        max_bad_share: of a folder's clips that may be damaged.
        threads: that load; 0 for one per core.
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
    epoch_length: int = 0
    max_bad_share: float = 0.01
    threads: int = 0


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where training starts from.

    Attributes:
        model: a model folder (or the name of a shipped one); empty starts everything from scratch.
        from_scratch: path patterns of parameters that the folder need not have and that then start from scratch. Each
            must match, and a parameter that is neither in the folder nor named here is an error.
        gates: what every gate scalar of such gates starts at; 0 as published. From scratch 0.1 to 0.3 learns sooner.
    """

    model: str = ""
    from_scratch: tuple[str, ...] = ()
    gates: float = 0.0


@dataclasses.dataclass(frozen=True)
class LowRankConfig:
    """Low-rank adaptation (`smcd_jax.nn.low_rank`), which is trained with ``trainable=("low_rank/.*",)``.

    Attributes:
        rank: Rank of the updates; 0 for none.
        kernels: Path patterns of the kernels that are updated; each must match.
    """

    rank: int = 0
    kernels: tuple[str, ...] = (r"unet/.+/(self|cross)_attention/(query|key|value|out)/kernel",)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """How errors are weighed.

    Attributes:
        min_snr_gamma: of `smcd_jax.diffusion.loss.min_snr_weights`; None weighs all timesteps alike, as the reference.
        noise_offset: of `smcd_jax.diffusion.loss.training_noise`; 0 as the reference.
        kl_weight: of the autoencoder's posterior against a unit Gaussian, per latent value.
        edge_weight: of the autoencoder's error in differences between neighbouring pixels.
    """

    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    kl_weight: float = 1e-6
    edge_weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, by default with the published settings of stage 2.

    Attributes:
        learning_rate: after the warm-up.
        schedule: "constant" or "cosine", which falls to ``end_lr_ratio`` of the rate at the last step.
        warmup_steps: of linear rise from 0.
        end_lr_ratio: see ``schedule``.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled, on every trained parameter, as PyTorch's AdamW.
        clip_norm: of the gradient of all trained parameters together; 0 for no clipping.
        grad_accum_steps: parts a batch is computed in, one after the other, to save memory.
        ema_decay: of the moving average of the trained parameters that is validated, sampled and exported; 0 for none.
            It rises to this from 0.1, as (1 + step) / (10 + step), so that the average forgets where it began.
        gate_lr_scale: factor on the updates of the gates' scalars.
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
    """How long, and what happens how often; intervals are in steps, 0 is never.

    Attributes:
        steps: to train for.
        log_every: a line and a row of metrics.
        validate_every: the loss on ``validation_examples`` with fixed noise and timesteps.
        validation_examples: see above; as many more are read as fill batches of ``data.batch_size``.
        sample_every: videos of the first ``samples`` validation clips, boxes drawn.
        samples: see above.
        sample_steps: denoising steps of a sample.
        guidance_scale: of samples.
        save_every: a checkpoint; one is also saved at the end and when the run is told to stop.
        max_to_keep: checkpoints kept.
        keep_every: checkpoints at multiples of so many steps are kept for ever.
        tensorboard: write event files.
        wandb: log to Weights & Biases, where it is installed.
    """

    steps: int = 60_000
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
    """A whole run.

    Attributes:
        name: of the experiment.
        family: Name of the model family.
        model: Config of the model that is trained, a dataclass of the family.
        objective: "denoise", or an objective of the model's own, such as "autoencoder".
        trainable: path patterns (regular expressions for whole paths such as "unet/encoder_1/spatial/.*") of the
            parameters that are trained; each must match.
        temporal: False leaves out every temporal layer, as stage 1 does.
        seed: of data order, noise and everything else.
        dtype: of computation, "float32" or "bfloat16"; empty for bfloat16 on accelerators and float32 on CPU. Trained
            parameters are float32 whatever it says; frozen ones have this type.
        remat: "none" keeps every activation for the gradient; "blocks" recomputes those within each block.
        dropout: in training; the rate is the model's.
        condition_dropout: Rate, 0..1, at which each condition is dropped, by switch of the model.
        condition_dropout_unit: "example" draws for each example; "batch" once for all, as the reference does.
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
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    run: RunConfig = RunConfig()

    def __post_init__(self):
        if self.model is None:
            object.__setattr__(self, "model", get_family(self.family).presets[self.family])
        make_model(self.model).check_rates(self.condition_dropout)
        if self.optimizer.grad_accum_steps < 1 or self.data.batch_size % self.optimizer.grad_accum_steps:
            raise SMCDError(
                f"config: data.batch_size must be a multiple of optimizer.grad_accum_steps "
                f"({self.optimizer.grad_accum_steps}), got {self.data.batch_size}",
                argument="optimizer.grad_accum_steps",
                value=self.optimizer.grad_accum_steps,
            )
        if self.dtype not in ("", "float32", "bfloat16"):
            _refuse("dtype", self.dtype, "be float32, bfloat16 or empty")
        for key, value in (
            ("run.steps", self.run.steps),
            ("run.log_every", self.run.log_every),
            ("data.batch_size", self.data.batch_size),
        ):
            if value < 1:
                _refuse(key, value, "be at least 1")
        if self.run.validate_every and self.run.validation_examples < 1:
            _refuse(
                "run.validation_examples", self.run.validation_examples, "be at least 1 unless run.validate_every=0"
            )
        if not 0 <= self.optimizer.ema_decay < 1:
            _refuse("optimizer.ema_decay", self.optimizer.ema_decay, "be at least 0 and below 1")


def _refuse(key: str, value: Any, condition: str) -> NoReturn:
    raise SMCDError(f"config: {key} must {condition}, got {value!r}", argument=key, value=value)


def default_config(preset: str = "smcd") -> ConfigDict:
    """All keys with their defaults, and the model of a preset ("smcd" or "tiny"), for a config file to change.

    Raises:
        SMCDError: no such preset.
    """
    known = presets()
    if preset not in known:
        raise SMCDError(
            f"config: unknown preset {preset!r}; known are {', '.join(sorted(known))}", argument="preset", value=preset
        )
    rates = dict.fromkeys(make_model(known[preset]).switches, 0.0)
    family = preset_family(preset)
    return ConfigDict(to_dict(TrainConfig(family=family, model=known[preset], condition_dropout=rates)))


def load_config(path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """A run from a config file.

    Args:
        path: "FILE.py" or "FILE.py:PRESET"; the file's ``get_config`` gets the preset.
        overrides: "key.of.config=value", the value as Python writes it; anything else is text.

    Raises:
        SMCDError: no such file, it fails, an unknown key, a value of another type.
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
            raise SMCDError(
                f"{file}: get_config() is missing; use a config such as configs/smcd/stage2_scene.py",
                argument="get_config",
                path=file,
            )
        if preset and not inspect.signature(get_config).parameters:
            raise SMCDError(
                f"{file}: this config has no presets; remove :{preset}", argument="preset", path=file, value=preset
            )
        config = get_config(preset) if preset else get_config()
    except SMCDError:
        raise
    except Exception as error:  # the file is the user's program
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
        _override(config, override)
    return config_from_dict(config.to_dict())


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """A run from plain values, as `config_to_dict` gives them and checkpoints hold them."""
    family = get_family(values.get("family", "smcd"))
    return from_dict(TrainConfig, values, classes={"model": family.config_class})


def config_to_dict(config: TrainConfig) -> dict[str, Any]:
    """A run as JSON values."""
    return to_dict(config)


def _override(config: ConfigDict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise SMCDError(f"--config.{key}: missing value; write --config.{key}=VALUE", argument=key)
    *parents, last = key.split(".")
    node = config
    for depth, name in enumerate(parents):
        if not isinstance(node, ConfigDict) or name not in node:
            _unknown(node, ".".join(parents[: depth + 1]), name)
        node = node[name]
    if not isinstance(node, ConfigDict) or last not in node:
        _unknown(node, key, last)
    if isinstance(node[last], ConfigDict):
        raise SMCDError(
            f"--config.{key} is a group of keys; set one of {', '.join(node[last])}", argument=key, value=text
        )
    with node.ignore_type():
        node[last] = _value(text, node[last])


def _value(text: str, before: Any) -> Any:
    if isinstance(before, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    if isinstance(before, tuple | list) and not isinstance(value, tuple | list):
        value = tuple(text.split(",")) if text else ()
    return list(value) if isinstance(value, tuple) else value


def _unknown(node: Any, key: str, name: str) -> None:
    known = list(node) if isinstance(node, ConfigDict) else []
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}" if known else ""
    raise SMCDError(f"--config.{key}: unknown key{hint}", argument=key)
