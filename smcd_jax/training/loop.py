"""The training loop: reads batches, runs the compiled step, logs, validates and saves checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from data_pipeline.order.permutation import OrderState
from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.registry import make_model
from smcd_jax.nn.networks import Params
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.device_specs import peak_flops
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.sharding import make_mesh
from smcd_jax.training.checkpoint.checkpoints import Checkpoints, Restored
from smcd_jax.training.config import TrainConfig, config_to_dict
from smcd_jax.training.data import TrainingData, null_arrays
from smcd_jax.training.logging.gates import gate_values
from smcd_jax.training.logging.metrics import MetricWriter, summary_line
from smcd_jax.training.logging.throughput import Throughput
from smcd_jax.training.signals import StopRequest
from smcd_jax.training.state import NO_FAULT, TrainState, check_start, policy, window_means
from smcd_jax.training.step import TrainProgram
from smcd_jax.training.time_box import TimeBox
from smcd_jax.training.validation import Validation
from smcd_jax.training.workdir import Workdir

logger = logging.getLogger(__name__)

# Keys of the config that a resumed run may change: they do not affect the results, or are compared by content.
FREE = (
    *("run", "mesh", "remat", "init.model"),
    *("data.threads", "data.records", "data.max_bad_share", "data.validation_split"),
    # The order of the data is counted in examples; optimizer and schedule are counted in steps.
    *("data.batch_size", "optimizer.grad_accum_steps"),
)
Say = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        ended: "done" after the last step, "stopped" on request, or "compiled" without training.
        step: Number of completed steps, all of them saved.
    """

    ended: Literal["done", "stopped", "compiled"]
    step: int


def train(
    config: TrainConfig,
    workdir: Path,
    *,
    profile: range | None = None,
    compile_only: bool = False,
    say: Say = lambda line: None,
) -> Outcome:
    """Trains a model, resuming from the newest valid checkpoint in the workdir if there is one.

    Args:
        config: Config of the run.
        workdir: Folder of checkpoints, samples, metrics and logs, used by one run at a time.
        profile: Steps that the profiler records into ``logs/profile``, counted from the start of this call.
        compile_only: Whether to return once the step is compiled.
        say: Function that prints one line of progress.

    Raises:
        SMCDError: The config or the data are wrong, the loss is not finite, or a checkpoint cannot be saved or
            resumed.
    """
    box = TimeBox(config.run.minutes, end_ratio=config.optimizer.end_lr_ratio)
    enable_compile_cache()
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh), Workdir(workdir) as folder, contextlib.ExitStack() as closing:
        run, base = config.run, ModelFolder(config.init.model) if config.init.model else None
        model, validate = make_model(config.model), bool(run.validate_every or (run.sample_every and run.samples))
        data = TrainingData(config.data, model, base, mesh=mesh, validate=validate)
        null = null_arrays(config.data, model, base)
        program = TrainProgram(config, mesh, null=null)
        say(_description(program))
        saved = config_to_dict(config) | {"base_sha256": base.digest if base else ""}
        checkpoints = Checkpoints(folder.checkpoints, max_to_keep=run.max_to_keep, keep_every=run.keep_every or None)
        closing.push(_closes(checkpoints))
        begun = None if compile_only else _begin(program, checkpoints, data, saved, say)
        if begun is None:
            _compiled(program, say)
            return Outcome("compiled", 0)
        state, order, done = box.resume(begun[0]), *begun[1:]
        if done >= run.steps or (done > 0 and box.over):
            return Outcome("done", done)
        step = _compiled(program, say)
        folder.write_config(saved)
        frozen = program.frozen_params()
        writer = closing.enter_context(
            MetricWriter(folder.path, tensorboard=run.tensorboard, wandb=run.wandb, run_config=saved, resume_step=done)
        )
        validation = Validation(program, data, null, base=base, folder=folder.samples)
        rates, of_all = _rates(program), "" if run.minutes else f"/{run.steps}"
        record = closing.enter_context(_profiler(profile, folder.logs))
        stop = closing.enter_context(StopRequest())
        stream, first = closing.enter_context(contextlib.closing(data.stream(order))), done
        ended = False
        while not ended:
            with rates.waiting_for_data():
                batch = next(stream)
            state = step(box.stamp(state), frozen, batch.arrays)
            done += 1
            rates.step()
            checkpoints.check()
            record(done - first, state)
            reason = stop.requested(done)
            ended = done == run.steps or box.over
            last = ended or reason is not None
            if done % run.log_every == 0 or done == first + 1 or ended:
                _log(program, state, done, rates, writer, say, box=box, examples=data.examples_before(batch.state))
                rates.restart() if done == first + 1 else None
            with rates.paused():
                if _due(done, run.save_every) or last:
                    _stop_at_fault(program, state, done)
                    _save(checkpoints, state, done, order=batch.state, data=data, config=saved, wait=last)
                if _due(done, run.validate_every) and reason is None:
                    _report_validation(validation.loss(state, frozen), done, of_all, writer, say)
                if _due(done, run.sample_every) and run.samples and reason is None:
                    _stop_at_fault(program, state, done)
                    validation.samples(state, frozen, done, writer)
            if reason is not None and not ended:
                say(f"stopped by {reason} after step {done}, which is saved; rerun the same command to resume")
                return Outcome("stopped", done)
        return Outcome("done", done)


def _begin(
    program: TrainProgram, checkpoints: Checkpoints, data: TrainingData, saved: dict[str, Any], say: Say
) -> tuple[TrainState, OrderState, int]:
    """Returns the state, the data position and the number of completed steps, from the newest checkpoint if any.

    Called before the step is compiled, so that a config that does not match the checkpoint is refused at once.
    """
    params, rest = _parts(program.state)
    restored: Restored | None = checkpoints.restore(params=params, train=rest, config=saved, ignore=FREE)
    if restored is None:
        check_start(program.config)
        return program.initial_state(), OrderState(seed=program.config.seed), 0
    if restored.data["clips"] != data.fingerprint:
        raise SMCDError(
            f"{checkpoints.folder}: step {restored.step} was trained on other clips ({restored.data['clips']}) than "
            f"data.records holds ({data.fingerprint}); use the same records, or another --workdir",
            argument="data.records",
            path=checkpoints.folder,
            value=data.fingerprint,
        )
    place = OrderState.from_dict(restored.data["order"])
    say(f"resuming after step {restored.step}, {data.examples_before(place)} examples")
    size, before = program.config.data.batch_size, restored.config["data"]["batch_size"]
    if size != before:
        logger.warning(
            "a step now takes %d examples instead of %d: the data continue after example %d, the optimizer and the "
            "learning rate after step %d",
            *(size, before, data.examples_before(place), restored.step),
        )
    ends, ended = program.config.run.steps, restored.config["run"]["steps"]
    if program.config.optimizer.schedule == "cosine" and ends != ended and not program.config.run.minutes:
        logger.warning("the learning rate now decays until step %d instead of step %d", ends, ended)
    state = TrainState(params=restored.params, **restored.train)
    return state, place, restored.step


def _compiled(program: TrainProgram, say: Say) -> Any:
    say("compiling the training step, which can take minutes")
    started = time.perf_counter()
    step = program.compile()
    say(f"step compiled in {time.perf_counter() - started:.1f} s")
    return step


def _parts(state: TrainState) -> tuple[Params, dict[str, Any]]:
    """Returns a state as the two items of a checkpoint."""
    rest = state._asdict()
    return rest.pop("params"), rest


def _save(
    checkpoints: Checkpoints,
    state: TrainState,
    step: int,
    *,
    order: OrderState,
    data: TrainingData,
    config: dict[str, Any],
    wait: bool,
) -> None:
    params, rest = _parts(state)
    position = {"order": order.to_dict(), "clips": data.fingerprint}
    checkpoints.save(step, params=params, train=rest, data=position, config=config, wait=wait)


def _closes(checkpoints: Checkpoints) -> Callable[..., None]:
    """Returns an exit callback that closes the checkpoints, but not after an error in one of several processes.

    Closing would then wait minutes for a process that may have ended; an incomplete save is not resumed from.
    """

    def close(kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or jax.process_count() == 1:
            checkpoints.close()

    return close


_norm = jax.jit(optax.tree.norm)


def _log(
    program: TrainProgram,
    state: TrainState,
    done: int,
    rates: Throughput,
    writer: MetricWriter,
    say: Say,
    *,
    box: TimeBox,
    examples: int,
) -> None:
    """Waits for the device and logs one line; raises if the loss was not finite."""
    values = window_means(jax.device_get(state.window))
    values["parameter_norm"] = float(_norm(state.params))
    values["learning_rate"] = float(program.learning_rate(done - 1)) * box.rate_factor
    values |= gate_values(state.params)
    values["examples"] = float(examples)
    values |= rates.read()
    writer.scalars(done, values)
    say(summary_line(done, program.config.run.steps, values, seconds_left=box.seconds_left))
    _stop_at_fault(program, state, done)


def _report_validation(values: dict[str, float], done: int, steps: str, writer: MetricWriter, say: Say) -> None:
    writer.scalars(done, values)
    say(f"step {done}{steps} | validation {values['validation_loss']:.4g}")


def _stop_at_fault(program: TrainProgram, state: TrainState, done: int) -> None:
    fault = int(state.fault)
    if fault != NO_FAULT:
        raise SMCDError(
            f"the loss or a gradient of step {fault + 1} is not finite; the step was not applied, and no later "
            f"checkpoint is saved. Restart with a lower optimizer.learning_rate (now "
            f"{program.config.optimizer.learning_rate:g}), with optimizer.clip_norm, or with dtype=float32",
            argument="optimizer.learning_rate",
            value=program.config.optimizer.learning_rate,
        )


def _rates(program: TrainProgram) -> Throughput:
    devices = program.mesh.devices.reshape(-1)
    peak = peak_flops(devices[0].device_kind, policy(program.config).compute)
    return Throughput(
        clips_per_step=program.config.data.batch_size,
        flops_per_step=program.flops(),
        peak_flops=None if peak is None else peak * len(devices),
    )


def _description(program: TrainProgram) -> str:
    count = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))  # noqa: E731
    summary, shape = device_summary(), dict(program.mesh.shape)
    mesh = " x ".join(f"{name} {size}" for name, size in shape.items())
    return (
        f"{program.config.name}: {count(program.state.params) / 1e6:.1f} million parameters trained, "
        f"{count(program.frozen) / 1e6:.1f} frozen, on {summary['devices']} {summary['device']} ({mesh})"
    )


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


@contextlib.contextmanager
def _profiler(steps: range | None, logs: Path) -> Iterator[Callable[[int, TrainState], None]]:
    """Yields a function to call after every step; it profiles the given steps, and keeps a profile that ends early."""
    folder, begun, running, newest = logs / "profile", False, False, 0

    def end() -> None:
        jax.profiler.stop_trace()
        count = newest - steps.start
        logger.warning("profile of %d steps written to %s; open it in TensorBoard's profile tab", count, folder)

    def record(step: int, state: TrainState) -> None:
        nonlocal begun, running, newest
        newest = step
        if steps is None or step not in (steps.start, steps.stop):
            return
        jax.block_until_ready(state.step)  # steps are queued; wait until earlier ones are done
        if step == steps.start:
            jax.profiler.start_trace(str(folder))
            begun = running = True
        elif running:
            running = False
            end()

    try:
        yield record
    finally:
        if running:
            end()
        if steps is not None and not begun:
            logger.warning("no profile was made: the run ended before its step %d", steps.start)
