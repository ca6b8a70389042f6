"""Preparing a data set: raw data to a folder of records, resumable after any interruption."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.builders import RawReport, Source, make_source
from data_pipeline.checks import require
from data_pipeline.records.bad_clip_list import BadClips
from data_pipeline.records.frames import StoredFrames
from data_pipeline.records.index import INDEX_ARRAYS, PER_FRAME, PER_RECORD, index_path, write_index
from data_pipeline.records.reader import FORMAT, RECORDS, REPORT, VERSION, WORK
from data_pipeline.records.report import Report
from data_pipeline.records.runners import Processes, Runner
from data_pipeline.records.schema import SCHEMA_VERSION, BadClip, features, serialize
from data_pipeline.records.shards import ShardTask, finished_shard, forget_outdated
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_json
from smcd_jax.files.text_files import read_json

MAX_BAD_SHARE = 0.01
TARGET_SHARD_BYTES = 256 << 20
MIN_SHARDS = 16  # if there are enough clips, so that 16 processes or hosts have work
_PLAN, _LOCK = "plan.json", "lock"
_SIZE = "clips_per_shard"
logger = logging.getLogger(__name__)
_SAMPLES = 3  # number of clips serialized to estimate the size of a record


def prepare(
    name: str,
    folder: Path | None,
    output: Path,
    *,
    splits: Sequence[str] | None = None,
    clips_per_shard: int | None = None,
    stored: StoredFrames | None = None,
    options: Mapping[str, Any] | None = None,
    max_bad_share: float = MAX_BAD_SHARE,
    runner: Runner | None = None,
    on_raw: Callable[[RawReport], Any] = lambda raw: None,
) -> Report:
    """Writes the records of a data set.

    An interrupted call resumes where it stopped; shards with bad clips, or whose raw files have changed since, are
    written again. A complete folder is only reported. The bytes written depend on the raw data, `splits`,
    `clips_per_shard`, `stored` and `options`; not on `runner` or interruptions.

    Args:
        name: Name of the data set, one of `builders.SOURCES`.
        folder: Folder of the raw data; None for data sets that are generated.
        output: Folder of the records: new, empty, or started by the same call.
        splits: Names of the splits to prepare; None for all splits of the raw data.
        clips_per_shard: Number of clips per shard; None for shards of about 256 MB, and at least 16 of them.
        stored: Size at which frames are stored; None for the original size.
        options: Further arguments of the source.
        max_bad_share: Largest share of clips that may be skipped, 0 to 1.
        runner: Runner that writes the shards; None for this process alone.
        on_raw: Function called with the report on the raw data before the work begins.

    Returns:
        Report of the whole folder.

    Raises:
        SMCDError: The raw data cannot be prepared, too many clips are bad, the output folder holds something else or
            is in use, the disk is full, or a worker process died.
    """
    output, stored = Path(output), stored or StoredFrames()
    source = make_source(name, folder, **(options or {}))
    raw = source.validate()
    on_raw(raw)
    chosen = _chosen_splits(source, splits)
    wanted = _plan(source, chosen, clips_per_shard=clips_per_shard, stored=stored, options=options or {})
    with _work_folder(output):
        inputs = _inputs(source, chosen)
        plan = _agreed_plan(source, wanted, output, stored)
        if (output / RECORDS).is_file():
            _note_changed_inputs(output, inputs)
        else:
            tasks = {split: _tasks(split, plan, output, stored) for split in chosen}
            for task in itertools.chain.from_iterable(tasks.values()):
                forget_outdated(task, inputs.get(task.split, ()))
            _write_shards(
                source,
                [task for split in chosen for task in tasks[split]],
                runner=runner or Processes(),
                max_bad_share=max_bad_share,
            )
            parts = {split: [finished_shard(task) for task in tasks[split]] for split in chosen}
            _finish(output, plan, parts, raw, inputs=inputs)
    # The share of bad clips in a complete folder is not checked again: it was accepted when the folder was made.
    shutil.rmtree(output / WORK)
    return Report.from_json(read_json(output / REPORT))


def _chosen_splits(source: Source, splits: Sequence[str] | None) -> tuple[str, ...]:
    for split in splits or ():
        require(split in source.splits, "splits", f"among {', '.join(source.splits)}", split)
    return tuple(dict.fromkeys(splits or source.splits))


def _plan(
    source: Source,
    splits: Sequence[str],
    *,
    clips_per_shard: int | None,
    stored: StoredFrames,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns everything that determines the bytes of the records, as JSON values; `clips_per_shard` may be None."""
    require(clips_per_shard is None or clips_per_shard >= 1, "clips_per_shard", "at least 1", clips_per_shard)
    contents = {}
    for split in splits:
        ids = source.clip_ids(split)
        contents[split] = {"clips": len(ids), "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    if not any(content["clips"] for content in contents.values()):
        raise SMCDError(
            f"{source.name}: no clips in {', '.join(splits)}; choose other splits",
            argument="splits",
            value=tuple(splits),
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "name": source.name,
        "options": dict(options),
        "short_side": stored.short_side,
        "frame_size": None if stored.size is None else list(stored.size),
        "jpeg_quality": stored.jpeg_quality,
        "clips_per_shard": clips_per_shard,
        "splits": contents,
    }


@contextlib.contextmanager
def _work_folder(output: Path) -> Iterator[None]:
    """Creates the folders and locks them against other processes during the block."""
    work = output / WORK
    if output.is_dir() and not work.is_dir() and not (output / RECORDS).is_file() and any(output.iterdir()):
        raise SMCDError(f"{output}: holds other files; choose an empty or new folder", argument="output", path=output)
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SMCDError(
                f"{output}: another 'smcd prepare' is writing there; wait until it has finished", path=work / _LOCK
            ) from error
        yield


def _agreed_plan(source: Source, wanted: dict[str, Any], output: Path, stored: StoredFrames) -> dict[str, Any]:
    """Returns the plan stored in the folder, which must match the requested one; a new folder gets the latter."""
    path = output / WORK / _PLAN
    done = output / RECORDS
    if not done.is_file() and path.is_file() and _other_clips(read_json(path), wanted):
        logger.warning("%s: the clips of the raw data have changed since preparation started; starting again", output)
        _start_again(output)
    if not done.is_file() and not path.is_file():
        size = wanted["clips_per_shard"] or _default_clips_per_shard(source, wanted, stored)
        write_json(path, {**wanted, "clips_per_shard": size})
        return {**wanted, "clips_per_shard": size}
    existing = read_json(done)["plan"] if done.is_file() else read_json(path)
    for key, value in wanted.items():
        is_default = key == "clips_per_shard" and value is None
        if existing.get(key) != value and not is_default:
            raise SMCDError(
                f"{output}: {key} of the records there is {_short(existing.get(key))}, got {_short(value)}; use the "
                "same value or another folder",
                argument=key,
                path=output,
                value=value,
            )
    return existing


def _default_clips_per_shard(source: Source, plan: dict[str, Any], stored: StoredFrames) -> int:
    """Estimates the number of clips per shard from a few clips; the same raw data give the same number."""
    split = max(plan["splits"], key=lambda name: plan["splits"][name]["clips"])
    clips = plan["splits"][split]["clips"]
    sizes = []
    for index in sorted({clips * sample // _SAMPLES for sample in range(_SAMPLES)}):
        with contextlib.suppress(BadClip), _without_notes():  # errors and notes are reported when the shard is written
            sizes.append(sum(map(len, serialize(stored.apply(source.clip(split, index))))))
    by_size = TARGET_SHARD_BYTES * len(sizes) // sum(sizes) if sizes else clips
    return max(1, min(by_size, -(-clips // MIN_SHARDS)))


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Suppresses warnings within the block."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(level)


def _tasks(split: str, plan: dict[str, Any], output: Path, stored: StoredFrames) -> list[ShardTask]:
    name, clips, size = plan["name"], plan["splits"][split]["clips"], plan["clips_per_shard"]
    shards = -(-clips // size)
    return [
        ShardTask(
            folder=output,
            file=f"{name}-{split}.tfrecord-{number:05d}-of-{shards:05d}",
            split=split,
            start=number * size,
            stop=min((number + 1) * size, clips),
            stored=stored,
        )
        for number in range(shards)
    ]


def _write_shards(source: Source, tasks: Sequence[ShardTask], *, runner: Runner, max_bad_share: float) -> None:
    total = sum(task.stop - task.start for task in tasks)
    bad = BadClips(source.name, total, max_bad_share)
    with tqdm(total=total, desc=f"prepare {source.name}", unit="clip", disable=None) as bar:
        runner.run(source, tasks, advance=bar.update, done=bad.add)
    bad.check(done=True)


def _inputs(source: Source, splits: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns a hash of the raw files of every clip, by split; empty for sources whose files are not watched."""
    fingerprint = getattr(source, "fingerprint", None)
    if fingerprint is None:
        return {}
    return {split: tuple(fingerprint(split, index) for index in range(len(source.clip_ids(split)))) for split in splits}


def _digest(inputs: Mapping[str, Sequence[str]]) -> str | None:
    return hashlib.sha256(repr(sorted(inputs.items())).encode()).hexdigest() if inputs else None


def _note_changed_inputs(output: Path, inputs: Mapping[str, Sequence[str]]) -> None:
    stored = read_json(output / RECORDS).get("inputs_sha256")
    if stored is not None and stored != _digest(inputs):
        logger.warning(
            "%s: the raw data have changed since these records were made; the records are kept. To prepare the data "
            "again, delete the folder or choose another one",
            output,
        )


def _other_clips(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Returns whether an unfinished folder was started by the same call on other raw data."""
    same_call = all(existing.get(key) == value for key, value in wanted.items() if key not in ("splits", _SIZE))
    return same_call and existing["splits"] != wanted["splits"] and existing["splits"].keys() == wanted["splits"].keys()


def _start_again(output: Path) -> None:
    for path in (*output.glob("*.tfrecord-*"), *(output / WORK).iterdir()):
        if path.name != _LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _finish(
    output: Path,
    plan: dict[str, Any],
    parts: dict[str, list[dict[str, Any]]],
    raw: RawReport,
    *,
    inputs: Mapping[str, Sequence[str]],
) -> None:
    """Writes indices, TFDS metadata (if TFDS is installed), report and `records.json`, which completes the folder."""
    contents = {}
    for split, shards in parts.items():
        _write_index(output, split, shards)
        entries = [
            {"file": part["file"], "bytes": part["bytes"], "clips": len(part["clip_ids"]), "sha256": part["sha256"]}
            for part in shards
        ]
        contents[split] = {"clips": sum(entry["clips"] for entry in entries), "shards": entries}
    if importlib.util.find_spec("tensorflow_datasets"):
        _write_tfds_metadata(output, plan["name"], contents)
    write_json(output / REPORT, Report.of(plan["name"], parts, raw.notes).to_json())
    head = {"format": FORMAT, "version": VERSION, "schema_version": SCHEMA_VERSION, "name": plan["name"]}
    watched = {} if not inputs else {"inputs_sha256": _digest(inputs)}
    write_json(output / RECORDS, {**head, "plan": plan, **watched, "splits": contents})


def _write_index(output: Path, split: str, shards: Sequence[dict[str, Any]]) -> None:
    arrays: dict[str, list[int]] = {key: [] for key in INDEX_ARRAYS}
    for number, part in enumerate(shards):
        arrays["shard"] += [number] * len(part["clip_ids"])
        for key in PER_RECORD:
            arrays[key] += part[key]
        for key in PER_FRAME:
            arrays[key] += itertools.chain.from_iterable(part[key])
    temporary = output / WORK / index_path(output, split).name
    write_index(temporary, [clip_id for part in shards for clip_id in part["clip_ids"]], arrays)
    os.replace(temporary, index_path(output, split))


def _write_tfds_metadata(output: Path, name: str, contents: dict[str, Any]) -> None:
    """Writes `dataset_info.json` and `features.json`, with which TensorFlow Datasets reads the folder."""
    import tensorflow_datasets as tfds

    version = f"{SCHEMA_VERSION}.0.0"
    template = tfds.core.ShardedFileTemplate(data_dir=output, dataset_name=name, filetype_suffix="tfrecord")
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir=str(output), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features())
    info.set_file_format(tfds.core.FileFormat.TFRECORD)
    split_infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["clips"] for shard in content["shards"]],
            num_bytes=sum(shard["bytes"] for shard in content["shards"]),
            filename_template=template.replace(split=split),
        )
        for split, content in contents.items()
        if content["shards"]
    ]
    info.set_splits(tfds.core.splits.SplitDict(split_infos))
    work = output / WORK / "tfds"
    work.mkdir(exist_ok=True)
    info.write_to_directory(work)
    for file in sorted(work.iterdir()):
        os.replace(file, output / file.name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
