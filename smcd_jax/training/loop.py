"""The training loop, top to bottom: batches in, parameters out, and nothing lost on the way."""

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

from smcd_jax.errors import SMCDError
from smcd_jax.nn.networks import Params
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.device_specs import peak_flops
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.sharding import make_mesh
from smcd_jax.training.checkpoint.checkpoints import Checkpoints, Restored
from smcd_jax.training.config import TrainConfig, config_to_dict
from smcd_jax.training.data import TrainingData, base_digest, null_arrays
from smcd_jax.training.logging.gates import gate_values
from smcd_jax.training.logging.metrics import MetricWriter, summary_line
from smcd_jax.training.logging.throughput import Throughput
from smcd_jax.training.program import TrainProgram
from smcd_jax.training.signals import StopRequest
from smcd_jax.training.state import NO_FAULT, TrainState, policy
from smcd_jax.training.step import window_means
from smcd_jax.training.validation import Validation
from smcd_jax.training.workdir import Workdir

logger = logging.getLogger(__name__)

# Keys of the config that a resumed run may change: they do not change what is computed, or are compared by content.
FREE = (
    *("run", "mesh", "remat", "init.model"),
    *("data.threads", "data.records", "data.max_bad_share", "data.validation_split"),
    # The order of the data is counted in examples; optimizer and schedule are counted in steps.
    *("data.batch_size", "optimizer.grad_accum_steps"),
)
Say = Callable[[str], object]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: "done", or "stopped" where it was told to and has saved; and after which step."""

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
    """Trains, going on from the newest whole checkpoint in the workdir where there is one.

    Args:
        config: of the run.
        workdir: folder of checkpoints, samples, metrics and logs; one run at a time.
        profile: steps, counted from where this call begins, that the profiler records into ``logs/profile``.
        compile_only: end when the step is compiled.
        say: gets lines for people.

    Raises:
        SMCDError: whatever a user can cause; a loss that is not finite; a checkpoint that cannot be saved or resumed.
    """
    enable_compile_cache()
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh), Workdir(workdir) as folder, contextlib.ExitStack() as closing:
        data = TrainingData(config, mesh)
        null = null_arrays(config)
        program = TrainProgram(config, mesh, null=null)
        say(_description(program))
        run, saved = config.run, _checkpoint_config(config)
        checkpoints = Checkpoints(folder.checkpoints, max_to_keep=run.max_to_keep, keep_every=run.keep_every or None)
        closing.push(_closes(checkpoints))
        # before the step is compiled: who gave another config than the checkpoint's should not have to wait for that
        begun = None if compile_only else _begin(program, checkpoints, data, saved, say)
        started = time.perf_counter()
        step = program.compile()
        say(f"step compiled in {time.perf_counter() - started:.1f} s")
        if begun is None:
            return Outcome("compiled", 0)

        state, order, done = begun
        folder.write_config(saved)
        frozen = program.frozen_params()
        writer = closing.enter_context(
            MetricWriter(folder.path, tensorboard=run.tensorboard, wandb=run.wandb, run_config=saved, resume_step=done)
        )
        validation = Validation(config, program, data, null, folder.samples)
        rates = _rates(program)
        record = closing.enter_context(_profiler(profile, folder.logs))
        stop = closing.enter_context(StopRequest())
        stream = data.stream(order)
        closing.callback(stream.close)
        first = done

        while done < run.steps:
            with rates.waiting_for_data():
                batch = next(stream)
            state = step(state, frozen, batch.arrays)
            done += 1
            rates.step()
            checkpoints.check()
            record(done - first, state)
            reason = stop.requested(done)
            last = done == run.steps or reason is not None
            if done % run.log_every == 0 or done == first + 1 or done == run.steps:
                _log(program, state, done, rates, writer, say, examples=data.examples_before(batch.state))
                rates.restart() if done == first + 1 else None
            with rates.paused():
                if _due(done, run.save_every) or last:
                    _stop_at_fault(program, state, done)
                    where = {"order": batch.state.to_dict(), "clips": data.fingerprint}
                    params, rest = _parts(state)
                    checkpoints.save(done, params=params, train=rest, data=where, config=saved, wait=last)
                if _due(done, run.validate_every) and reason is None:
                    _report_validation(validation.loss(state, frozen), done, run.steps, writer, say)
                if _due(done, run.sample_every) and run.samples and reason is None:
                    _stop_at_fault(program, state, done)
                    validation.samples(state, frozen, done, writer)
            if reason is not None and done < run.steps:
                say(f"stopped by {reason} after step {done}, which is saved; rerun the same command to resume")
                return Outcome("stopped", done)
        return Outcome("done", done)


def _begin(
    program: TrainProgram, checkpoints: Checkpoints, data: TrainingData, saved: dict[str, Any], say: Say
) -> tuple[TrainState, Any, int]:
    """The state to go on from, the place in the data and the step: of the newest checkpoint, or the beginning."""
    params, rest = _parts(program.state)
    restored: Restored | None = checkpoints.restore(params=params, train=rest, config=saved, ignore=FREE)
    if restored is None:
        return program.initial_state(), data.start(), 0
    if restored.data["clips"] != data.fingerprint:
        raise SMCDError(
            f"{checkpoints.folder}: step {restored.step} was trained on other clips ({restored.data['clips']}) than "
            f"data.records holds ({data.fingerprint}); use the same records, or another --workdir",
            argument="data.records",
            path=checkpoints.folder,
            value=data.fingerprint,
        )
    place = data.place(restored.data["order"])
    say(f"resuming after step {restored.step}, {data.examples_before(place)} examples")
    size, before = program.config.data.batch_size, restored.config["data"]["batch_size"]
    if size != before:
        logger.warning(
            "a step now takes %d examples instead of %d: the data continue after example %d, the optimizer and the "
            "learning rate after step %d",
            *(size, before, data.examples_before(place), restored.step),
        )
    ends, ended = program.config.run.steps, restored.config["run"]["steps"]
    if program.config.optimizer.schedule == "cosine" and ends != ended:
        logger.warning("the learning rate now falls until step %d; so far it fell until step %d", ends, ended)
    state = TrainState(params=restored.params, **restored.train)
    return state, place, restored.step


def _parts(state: TrainState) -> tuple[Params, dict[str, Any]]:
    """A state as the two items of a checkpoint."""
    rest = state._asdict()
    return rest.pop("params"), rest


def _closes(checkpoints: Checkpoints) -> Callable[..., None]:
    """For the end of a run. After an error in one of several processes a save is left as it is.

    It would wait, for minutes, for a process that may have gone; what is not whole is not resumed from.
    """

    def close(kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or jax.process_count() == 1:
            checkpoints.close()

    return close


def _checkpoint_config(config: TrainConfig) -> dict[str, Any]:
    """What is saved beside the arrays: the config, and which weights it started from."""
    return {**config_to_dict(config), "base_sha256": base_digest(config)}


def _log(
    program: TrainProgram,
    state: TrainState,
    done: int,
    rates: Throughput,
    writer: MetricWriter,
    say: Say,
    *,
    examples: int,
) -> None:
    """Waits for the device, and writes a line; raises if the loss was not finite."""
    window = jax.device_get(state.window)
    values = window_means(window)
    values["parameter_norm"] = program.norm(state.params)
    values["learning_rate"] = float(program.rate(done - 1))
    values |= gate_values(state.params)
    values["examples"] = float(examples)
    values |= rates.read()
    writer.scalars(done, values)
    say(summary_line(done, program.config.run.steps, values))
    _stop_at_fault(program, state, done)


def _report_validation(values: dict[str, float], done: int, steps: int, writer: MetricWriter, say: Say) -> None:
    writer.scalars(done, values)
    say(f"step {done}/{steps} | validation {values['validation_loss']:.4g}")


def _stop_at_fault(program: TrainProgram, state: TrainState, done: int) -> None:
    fault = int(state.fault)
    if fault != NO_FAULT:
        raise SMCDError(
            f"the loss or a gradient of step {fault + 1} is not finite; the step changed nothing, and no later "
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
    """What records these steps when it is called after every step; a run that ends within them keeps what there is."""
    folder, begun, running, newest = logs / "profile", False, False, 0

    def end() -> None:
        jax.profiler.stop_trace()
        count = newest - steps.start
        logger.warning("profile of %d steps is in %s; TensorBoard's profile tab shows it", count, folder)

    def record(step: int, state: TrainState) -> None:
        nonlocal begun, running, newest
        newest = step
        if steps is None or step not in (steps.start, steps.stop):
            return
        jax.block_until_ready(state.step)  # steps are only handed to the device: those recorded should be done there
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
