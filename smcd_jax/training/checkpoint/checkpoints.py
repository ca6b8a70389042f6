"""Training checkpoints: saved in the background, restored onto any mesh only if every checksum matches.

A step is the folder CHECKPOINTS/STEP with the Orbax items params, train, data, config and checksums. It gets its final
name once all items are written. Orbax does not detect a flipped bit, hence the checksums of
`smcd_jax.training.checkpoint.manifest`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.training.checkpoint.manifest import ARRAY_ITEMS, DamagedStep, Manifest, named_leaves
from smcd_jax.training.checkpoint.mismatch import refuse_other_arrays, refuse_other_config
from smcd_jax.training.checkpoint.orbax_io import make_manager, read_arrays, reason_of_failed_save, save_items
from smcd_jax.training.checkpoint.steps import (
    common_steps,
    has_damaged_steps,
    read_on_all_processes,
    set_aside,
    steps_in,
)

logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """State from which a run resumes.

    Attributes:
        step: Step of the checkpoint.
        params: Trained parameters, with the requested tree and shardings.
        train: Other training state, with the requested tree and shardings.
        data: Position in the training data.
        config: Config of the run that saved the checkpoint.
        skipped: (step, reason) of newer checkpoints that are damaged.
    """

    step: int
    params: Any
    train: Any
    data: dict[str, Any]
    config: dict[str, Any]
    skipped: tuple[tuple[int, str], ...]


class Checkpoints:
    """The checkpoints of one run. All processes must call the same methods in the same order.

    Args:
        folder: Folder on a file system that all processes share; created if missing.
        max_to_keep: Number of newest steps to keep, at least 1.
        keep_every: Interval of additional steps that are never deleted, at least 1; None for no such steps.

    Raises:
        SMCDError: An argument is out of range, or the folder cannot be created.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_to_keep: int = 3, keep_every: int | None = None):
        for name, value in (("max_to_keep", max_to_keep), ("keep_every", keep_every)):
            if value is not None and value < 1:
                raise SMCDError(f"{name} must be at least 1, got {value}", argument=name, value=value)
        self.folder = Path(folder).absolute()
        self._keep = (max_to_keep, keep_every)
        self._manager: Any = None
        self._newest: int | None = None  # newest step that this run has restored or started to save
        self._saving: int | None = None
        self._failures: list[Exception] = []  # errors of this process during the current save
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SMCDError(
                f"cannot create {self.folder} ({error.strerror}); choose another folder", path=self.folder
            ) from error

    def save(
        self,
        step: int,
        *,
        params: Any,
        train: Any,
        data: Mapping[str, Any],
        config: Mapping[str, Any],
        wait: bool = False,
    ) -> None:
        """Starts saving a step in the background; arrays may be donated once this returns.

        Does nothing if this run has just restored or saved the same step.

        Args:
            step: Number of completed steps, greater than that of every existing checkpoint.
            params: Nested dict of arrays.
            train: Tree of arrays.
            data: JSON-serializable position in the training data.
            config: JSON-serializable config.
            wait: Whether to return only after the step is completely written.

        Raises:
            SMCDError: The save cannot start, or the previous one has failed.
        """
        self.wait()
        if step == self._newest:
            return
        existing = self.steps()
        if existing and step <= existing[-1]:
            raise SMCDError(
                f"{self.folder}: cannot save step {step} because step {existing[-1]} exists; resume from it, or use "
                "another --workdir",
                argument="step",
                path=self.folder,
                value=step,
            )
        arrays = {"params": named_leaves(params), "train": named_leaves(train)}
        values = {"data": dict(data), "config": dict(config)}
        manifest = Manifest.of(step, arrays, values)
        self._saving = step
        self._watched(lambda: self._begin(step, arrays, {**values, "checksums": manifest.to_json()}))
        self._newest = step
        if wait:
            self.wait()

    def check(self) -> None:
        """Raises `SMCDError`, once, if the save in the background has failed; cheap enough for every step."""
        if self._saving is not None and (self._failures or not self._manager.is_saving_in_progress()):
            self.wait()

    def wait(self) -> None:
        """Waits for the save in the background; raises `SMCDError` if it has failed."""
        if self._saving is not None:
            self._watched(self._manager.wait_until_finished)
            self._saving = None

    def close(self) -> None:
        """Waits for the last save and stops the threads; raises `SMCDError` if the save has failed."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def steps(self) -> list[int]:
        """Returns the existing steps, damaged or not, oldest first."""
        return steps_in(self.folder)

    def restore(
        self, *, params: Any, train: Any, config: Mapping[str, Any] | None = None, ignore: tuple[str, ...] = ()
    ) -> Restored | None:
        """Restores the newest valid step, or returns None if there are no checkpoints.

        Newer damaged steps are renamed to STEP.damaged-N, each with a warning.

        Args:
            params: Tree of `jax.ShapeDtypeStruct` with shardings, on any mesh.
            train: Tree of `jax.ShapeDtypeStruct` with shardings, on any mesh.
            config: Config that the checkpoint must have; None for any.
            ignore: Keys of the config that may differ, see `config_differences`.

        Raises:
            SMCDError: All steps are damaged, or the newest valid one has different arrays or a different config.
        """
        wanted = {"params": named_leaves(params), "train": named_leaves(train)}
        skipped: list[tuple[int, str]] = []
        for step in reversed(common_steps(self.folder)):
            folder = self.folder / str(step)
            try:
                manifest, values = read_on_all_processes(lambda folder=folder: _read_description(folder))
                if config is not None:
                    refuse_other_config(folder, values["config"], config, ignore=ignore)
                refuse_other_arrays(folder, _flatten_items(manifest.arrays), _flatten_items(wanted))
                found = _verified_arrays(folder, manifest, wanted)
            except DamagedStep as damage:
                skipped.append((step, str(damage)))
                continue
            set_aside(self.folder, skipped, resumed=step)
            self._newest = step
            trees = {
                item: jax.tree.unflatten(jax.tree.structure(tree), found[item].values())
                for item, tree in (("params", params), ("train", train))
            }
            return Restored(step, **trees, **values, skipped=tuple(skipped))
        if skipped:
            raise _all_damaged(self.folder, skipped)
        if has_damaged_steps(self.folder):
            raise SMCDError(
                f"{self.folder}: all checkpoints are damaged; restore one from a backup, or delete the folder",
                path=self.folder,
            )
        return None

    def _begin(self, step: int, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        if self._manager is None:
            max_to_keep, keep_every = self._keep
            self._manager = make_manager(
                self.folder, max_to_keep=max_to_keep, keep_every=keep_every, failures=self._failures
            )
        save_items(self._manager, step, arrays=arrays, values=values)

    def _watched(self, action: Callable[[], None]) -> None:
        """Runs a part of a save and turns its error into an `SMCDError`, raised once."""
        step = self._saving
        try:
            action()
        except Exception as error:  # Orbax and TensorStore raise many types for files that cannot be written
            logger.debug("saving step %s", step, exc_info=True)
            self._saving = self._newest = None
            reason = reason_of_failed_save([*self._failures, error])
            self._failures.clear()
            others = [other for other in self.steps() if other != step]
            newest = f"the newest checkpoint is step {others[-1]}" if others else "there is no other checkpoint"
            raise SMCDError(
                f"{self.folder}: the checkpoint of step {step} could not be saved ({reason}); {newest}. Free "
                "disk space or fix the permissions, then start again",
                argument="step",
                path=self.folder,
                value=step,
            ) from error


def read_checkpoint(
    folder: str | os.PathLike[str], *, step: int | None = None, ema: bool = True
) -> tuple[int, dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Reads the trained parameters of a checkpoint into host memory and verifies them.

    Args:
        folder: Checkpoints folder of a run.
        step: Step to read; None for the newest valid one.
        ema: Whether to read the moving average of the parameters, if the run kept one. The choice is logged.

    Returns:
        (step, arrays by path, data, config). Paths of running statistics start with "stats/".

    Raises:
        SMCDError: The step does not exist, or it is damaged.
    """
    folder = Path(folder).absolute()
    steps = steps_in(folder)
    if not steps or step not in (None, *steps):
        existing = f"existing steps: {', '.join(map(str, steps[-10:]))}" if steps else "the folder has no steps"
        wanted = "checkpoints" if step is None else f"checkpoint of step {step}"
        raise SMCDError(
            f"{folder}: no {wanted} ({existing}); pass the checkpoints folder of a run",
            argument="step",
            path=folder,
            value=step,
        )
    skipped: list[tuple[int, str]] = []
    for candidate in reversed(steps) if step is None else [step]:
        try:
            found = _host_arrays(folder / str(candidate), ema=ema)
        except DamagedStep as damage:
            if step is not None:
                others = ", ".join(str(other) for other in steps if other != step) or "no others"
                raise SMCDError(
                    f"{folder}: step {step} is damaged ({damage}); omit --step for the newest valid one, or choose "
                    f"another ({others})",
                    argument="step",
                    path=folder,
                    value=step,
                ) from damage
            skipped.append((candidate, str(damage)))
            continue
        for newer, reason in skipped:
            logger.warning("%s: step %d is damaged (%s); reading step %d", folder, newer, reason, candidate)
        return (candidate, *found)
    raise _all_damaged(folder, skipped)


def _host_arrays(folder: Path, *, ema: bool) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    manifest, values = _read_description(folder)
    averaged = [name for name in manifest.arrays["train"] if name.startswith("ema/")]
    item, names = ("train", averaged) if ema and averaged else ("params", list(manifest.arrays["params"]))
    logger.info("%s: reading %s", folder, "the moving average" if item == "train" else "the trained parameters")
    leaves = _verified(folder, manifest, item, names)
    statistics = [name for name in manifest.arrays["train"] if name.startswith("stats/")]
    if statistics:
        leaves |= _verified(folder, manifest, "train", statistics)
    return {name.removeprefix("ema/"): leaf for name, leaf in leaves.items()}, values["data"], values["config"]


def _verified(folder: Path, manifest: Manifest, item: str, names: list[str]) -> dict[str, np.ndarray]:
    leaves = read_arrays(folder / item, dict.fromkeys(names))
    for name, leaf in leaves.items():
        manifest.verify(item, {name: jax.device_put(leaf)})
    return leaves


def _read_description(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    missing = [item for item in (*ARRAY_ITEMS, "data", "config", "checksums") if not (folder / item).is_dir()]
    if missing:
        raise DamagedStep(f"{', '.join(missing)} missing")
    manifest = Manifest.read(folder)
    if str(manifest.step) != folder.name:
        raise DamagedStep(f"it contains step {manifest.step}")
    return manifest, manifest.verified_json(folder)


def _verified_arrays(
    folder: Path, manifest: Manifest, wanted: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]
) -> dict[str, dict[str, jax.Array]]:
    found = {}
    for item, leaves in wanted.items():
        found[item] = read_on_all_processes(lambda item=item, leaves=leaves: read_arrays(folder / item, leaves))
        manifest.verify(item, found[item])
    return found


def _flatten_items(items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{item}/{name}": leaf for item, leaves in items.items() for name, leaf in leaves.items()}


def _all_damaged(folder: Path, skipped: list[tuple[int, str]]) -> SMCDError:
    reasons = "; ".join(f"step {step}: {reason}" for step, reason in skipped[:3]) + "; ..." * (len(skipped) > 3)
    return SMCDError(
        f"{folder}: all checkpoints are damaged ({reasons}); restore one from a backup, or start a new run in another "
        "--workdir",
        path=folder,
        value=[step for step, _ in skipped],
    )
