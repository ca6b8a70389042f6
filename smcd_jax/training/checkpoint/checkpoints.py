"""Training checkpoints: saved in the background, restored only when every checksum holds, onto any mesh.

CHECKPOINTS/STEP/{params, train, data, config, checksums}, each an Orbax item; a step appears under its number when all
are whole. Orbax restores a flipped bit without a word, hence `checkpoint_manifest`.
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
from smcd_jax.training.checkpoint.orbax_io import make_manager, read_arrays, reason_of, save_items
from smcd_jax.training.checkpoint.steps import agreed, agreed_steps, has_damaged_steps, set_aside, steps_in

logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a run resumes from.

    Attributes:
        step: of the checkpoint.
        params: as asked for, placed by the shardings that were given.
        train: likewise.
        data: the position in the data.
        config: of the run that saved it.
        skipped: (step, what was wrong) of newer steps that are damaged.
    """

    step: int
    params: Any
    train: Any
    data: dict[str, Any]
    config: dict[str, Any]
    skipped: tuple[tuple[int, str], ...]


class Checkpoints:
    """The checkpoints of one run. Every process calls every method, at the same points.

    Args:
        folder: is made; on a file system that all processes share.
        max_to_keep: newest steps that are kept, at least 1.
        keep_every: keep every step that is a multiple of this for ever, too.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_to_keep: int = 3, keep_every: int | None = None):
        if max_to_keep < 1 or (keep_every is not None and keep_every < 1):
            raise SMCDError(f"max_to_keep is {max_to_keep} and keep_every {keep_every}; each must be at least 1")
        self.folder = Path(folder).absolute()
        self._keep = (max_to_keep, keep_every)
        self._manager: Any = None
        self._newest: int | None = None  # step this run has restored or begun to save
        self._saving: int | None = None
        self._failures: list[Exception] = []  # of this process while saving
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SMCDError(f"cannot make {self.folder} ({error.strerror}); choose another folder") from error

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
        """Begins to save in the background. Arrays may be donated as soon as this returns.

        A step that this run has restored or saved last is there already, and is not saved again.

        Args:
            step: greater than every earlier one.
            params: nested dict of arrays.
            train: any tree of arrays.
            data: JSON values.
            config: JSON values.
            wait: return only when the step is whole.

        Raises:
            SMCDError: this save cannot begin, or the one before has failed.
        """
        self.wait()
        if step == self._newest:
            return
        there = self.steps()
        if there and step <= there[-1]:
            raise SMCDError(
                f"{self.folder} has step {there[-1]} already, so step {step} cannot be saved; resume from it, or give "
                "another --workdir"
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
        """Raises `SMCDError` once if the save in the background has failed; cheap, for every step."""
        if self._saving is not None and (self._failures or not self._manager.is_saving_in_progress()):
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being saved; raises `SMCDError` if that has failed."""
        if self._saving is not None:
            self._watched(self._manager.wait_until_finished)
            self._saving = None

    def close(self) -> None:
        """Waits, and ends the threads; raises `SMCDError` if the last save has failed."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def steps(self) -> list[int]:
        """Steps there are, damaged or not, oldest first."""
        return steps_in(self.folder)

    def restore(
        self, *, params: Any, train: Any, config: Mapping[str, Any] | None = None, ignore: tuple[str, ...] = ()
    ) -> Restored | None:
        """The newest step of which every item and every checksum holds; None where no run has saved one.

        Newer steps that are damaged are renamed to STEP.damaged-N, each with a warning.

        Args:
            params: tree of `jax.ShapeDtypeStruct` with shardings, on any mesh.
            train: likewise.
            config: refuse a checkpoint whose config differs.
            ignore: keys of the config that may differ, see `config_differences`.

        Raises:
            SMCDError: steps are there but none is whole; or the newest whole one has other arrays or another config.
        """
        wanted = {"params": named_leaves(params), "train": named_leaves(train)}
        skipped: list[tuple[int, str]] = []
        for step in reversed(agreed_steps(self.folder)):
            try:
                manifest, values = agreed(lambda folder=self.folder / str(step): _read_description(folder))
                if config is not None:
                    refuse_other_config(self.folder / str(step), values["config"], config, ignore=ignore)
                refuse_other_arrays(self.folder / str(step), _all_records(manifest), _joined(wanted))
                found = _verified_arrays(self.folder / str(step), manifest, wanted)
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
            raise SMCDError(_none_whole(self.folder, skipped))
        if has_damaged_steps(self.folder):
            raise SMCDError(f"{self.folder} holds only damaged steps; restore one from a copy, or remove the folder")
        return None

    def _begin(self, step: int, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        if self._manager is None:
            max_to_keep, keep_every = self._keep
            self._manager = make_manager(
                self.folder, max_to_keep=max_to_keep, keep_every=keep_every, failures=self._failures
            )
        save_items(self._manager, step, arrays=arrays, values=values)

    def _watched(self, action: Callable[[], None]) -> None:
        """Runs a part of saving; an error becomes one line, raised once."""
        step = self._saving
        try:
            action()
        except Exception as error:  # Orbax and TensorStore raise many kinds where a file cannot be written
            logger.debug("saving step %s", step, exc_info=True)
            self._saving = self._newest = None
            self._failures.clear()
            whole = [other for other in self.steps() if other != step]
            rest = f"the newest whole one is step {whole[-1]}" if whole else "there is no whole one"
            raise SMCDError(
                f"{self.folder}: the checkpoint of step {step} could not be saved ({reason_of(error)}); {rest}. Make "
                "room or mend the permissions, and start again"
            ) from error


def read_checkpoint(
    folder: str | os.PathLike[str], *, step: int | None = None, ema: bool = True
) -> tuple[int, dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Trained parameters of a checkpoint on the host, verified: (step, arrays by path, data, config).

    Args:
        folder: the run's checkpoints.
        step: the newest whole one by default.
        ema: their moving average where the run kept one, logged; else the parameters themselves.

    Raises:
        SMCDError: there is no such step, or it is damaged.
    """
    folder = Path(folder).absolute()
    steps = steps_in(folder)
    if not steps or step not in (None, *steps):
        there = f"it has {', '.join(map(str, steps[-10:]))}" if steps else "it has none"
        wanted = "checkpoints" if step is None else f"checkpoint of step {step}"
        raise SMCDError(f"{folder} has no {wanted}: {there}; give the checkpoints folder of a run")
    skipped: list[tuple[int, str]] = []
    for candidate in reversed(steps) if step is None else [step]:
        try:
            found = _host_arrays(folder / str(candidate), ema=ema)
        except DamagedStep as damage:
            if step is not None:
                others = ", ".join(str(other) for other in steps if other != step) or "none"
                raise SMCDError(
                    f"{folder}: step {step} is damaged ({damage}); leave out --step for the newest whole one, or give "
                    f"another (there are: {others})"
                ) from damage
            skipped.append((candidate, str(damage)))
            continue
        for newer, reason in skipped:
            logger.warning("%s: step %d is damaged (%s); reading step %d", folder, newer, reason, candidate)
        return (candidate, *found)
    raise SMCDError(_none_whole(folder, skipped))


def _host_arrays(folder: Path, *, ema: bool) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    manifest, values = _read_description(folder)
    averaged = [name for name in manifest.arrays["train"] if name.startswith("ema/")]
    item, names = ("train", averaged) if ema and averaged else ("params", list(manifest.arrays["params"]))
    logger.info("%s: reading %s", folder, "the moving average" if item == "train" else "the trained parameters")
    leaves = read_arrays(folder / item, dict.fromkeys(names))
    for name, leaf in leaves.items():
        manifest.verify(item, {name: jax.device_put(leaf)})
    return {name.removeprefix("ema/"): leaf for name, leaf in leaves.items()}, values["data"], values["config"]


def _read_description(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    missing = [item for item in (*ARRAY_ITEMS, "data", "config", "checksums") if not (folder / item).is_dir()]
    if missing:
        raise DamagedStep(f"{', '.join(missing)} missing")
    manifest = Manifest.read(folder)
    if str(manifest.step) != folder.name:
        raise DamagedStep(f"its content is that of step {manifest.step}")
    return manifest, manifest.verified_json(folder)


def _verified_arrays(
    folder: Path, manifest: Manifest, wanted: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]
) -> dict[str, dict[str, jax.Array]]:
    found = {}
    for item, leaves in wanted.items():
        found[item] = agreed(lambda item=item, leaves=leaves: read_arrays(folder / item, leaves))
        manifest.verify(item, found[item])
    return found


def _joined(items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{item}/{name}": leaf for item, leaves in items.items() for name, leaf in leaves.items()}


def _all_records(manifest: Manifest) -> dict[str, Any]:
    return _joined(manifest.arrays)


def _none_whole(folder: Path, skipped: list[tuple[int, str]]) -> str:
    named = "; ".join(f"step {step}: {reason}" for step, reason in skipped[:3])
    return (
        f"{folder}: none of its steps is whole ({named}{'; ...' if len(skipped) > 3 else ''}); put back "
        "a copy of one, or start anew in another --workdir"
    )
