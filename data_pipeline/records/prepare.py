"""From raw data to a folder of records: what is to be written, the writing, going on after a kill, and the metadata."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import inspect
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.builders import SOURCES, RawReport, Source, make_source
from data_pipeline.records.frames import StoredFrames
from data_pipeline.records.reader import (
    FORMAT,
    INDEX_ARRAYS,
    PER_FRAME,
    PER_RECORD,
    RECORDS,
    REPORT,
    VERSION,
    WORK,
    index_path,
    write_index,
)
from data_pipeline.records.report import Report
from data_pipeline.records.runners import run_here, run_on_beam
from data_pipeline.records.schema import SCHEMA_VERSION, BadClip, features, serialize
from data_pipeline.records.shards import ShardTask, finished_shard
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_json
from smcd_jax.files.text_files import read_json

MAX_BAD_SHARE = 0.01
TARGET_SHARD_BYTES = 256 << 20
SMALLEST_NUMBER_OF_SHARDS = 16  # where there are so many clips: for as many processes and hosts
_PLAN, _LOCK = "plan.json", "lock"
_SAMPLES = 3  # clips made to see how large they are


def prepare(
    name: str,
    folder: Path | None,
    output: Path,
    *,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    max_bad_share: float = MAX_BAD_SHARE,
    clips_per_shard: int | None = None,
    short_side: int | None = None,
    frame_size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    runner: str | None = None,
    beam_options: Sequence[str] = (),
    on_raw: Callable[[RawReport], Any] = lambda raw: None,
) -> Report:
    """Write the records of a data set. Begun before, it goes on from there; done before, it only reports.

    The bytes depend on the raw data and on `splits`, `clips_per_shard`, `short_side`, `frame_size` and `options`; not
    on `workers`, `runner` or interruptions.

    Args:
        name: of the data set, one of `builders.SOURCES`.
        folder: its raw data; None for those that need none.
        output: folder of the records: new, empty, or left by the same call.
        splits: which to prepare; None for all that the raw data have.
        workers: processes.
        max_bad_share: share of all clips that may be skipped before that is an error.
        clips_per_shard: None for shards of about 256 MB, and at least 16 of them.
        short_side: frames are shrunk to so many pixels on the shorter side (jpeg of quality 95); None keeps the files.
        frame_size: width and height that every frame is resized to, not cropped (jpeg of quality 95); not together with
            `short_side`.
        options: further arguments of the source.
        runner: name of an Apache Beam runner that does the work instead of processes here.
        beam_options: arguments of Beam's pipeline, such as `--direct_num_workers=2`.
        on_raw: called with what the look at the raw data found, before the work begins.

    Raises:
        SMCDError: raw data that cannot be prepared, too many bad clips, an output folder of other records or in use by
            another process, a full disk, or a worker that died.
    """
    output = Path(output)
    source = _make_source(name, folder, options or {})
    raw = source.validate()
    on_raw(raw)
    chosen = _chosen_splits(source, splits)
    stored = _stored_frames(short_side, frame_size)
    wanted = _plan(source, chosen, clips_per_shard=clips_per_shard, stored=stored, options=options or {})
    with _work_folder(output):
        plan = _agreed_plan(source, wanted, output, stored)
        if not (output / RECORDS).is_file():
            tasks = {split: _tasks(split, plan, output, stored) for split in chosen}
            _write_shards(
                source,
                [task for split in chosen for task in tasks[split]],
                workers=workers,
                max_bad_share=max_bad_share,
                runner=runner,
                beam_options=beam_options,
            )
            parts = {split: [finished_shard(task) for task in tasks[split]] for split in chosen}
            _finish(output, plan, parts, raw)
    # Records of before are not judged again: they stand as they were agreed to then.
    shutil.rmtree(output / WORK)
    return Report.from_json(read_json(output / REPORT))


def _make_source(name: str, folder: Path | None, options: Mapping[str, Any]) -> Source:
    if name in SOURCES and options:
        module, attribute = SOURCES[name].split(":")
        parameters = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
        known = list(parameters)[1:]
        checks_itself = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for option in options:
            if option not in known and not checks_itself:
                takes = ", ".join(known) or "none"
                raise SMCDError(f"data set {name} has no option {option!r}: it takes {takes}")
    return make_source(name, folder, **options)


def _chosen_splits(source: Source, splits: Sequence[str] | None) -> tuple[str, ...]:
    for split in splits or ():
        if split not in source.splits:
            raise SMCDError(f"{source.name}: no split {split!r}: the raw data have {', '.join(source.splits)}")
    return tuple(dict.fromkeys(splits or source.splits))


def _stored_frames(short_side: int | None, frame_size: tuple[int, int] | None) -> StoredFrames:
    if short_side is not None and frame_size is not None:
        raise SMCDError("--short_side and --frame_size exclude each other: give one of them")
    if short_side is not None and short_side < 1:
        raise SMCDError(f"--short_side {short_side}: it must be at least 1")
    if frame_size is not None and min(frame_size) < 1:
        raise SMCDError(f"--frame_size {frame_size[0]}x{frame_size[1]}: both must be at least 1")
    return StoredFrames(short_side, None if frame_size is None else tuple(frame_size))


def _plan(
    source: Source,
    splits: Sequence[str],
    *,
    clips_per_shard: int | None,
    stored: StoredFrames,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What decides the bytes of the records, as JSON values; `clips_per_shard` may be None still."""
    if clips_per_shard is not None and clips_per_shard < 1:
        raise SMCDError(f"--clips_per_shard {clips_per_shard}: it must be at least 1")
    contents = {}
    for split in splits:
        ids = source.clip_ids(split)
        contents[split] = {"clips": len(ids), "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    if not any(content["clips"] for content in contents.values()):
        raise SMCDError(f"{source.name}: no clip in split {' or '.join(splits)}: there is nothing to prepare")
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
    """Makes the folders, and keeps other processes from working in them during the block."""
    work = output / WORK
    if output.is_dir() and not work.is_dir() and not (output / RECORDS).is_file() and any(output.iterdir()):
        raise SMCDError(f"{output}: holds other files: choose an empty folder or a new one")
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SMCDError(f"{output}: another smcd prepare is at work there: wait until it is done") from error
        yield


def _agreed_plan(source: Source, wanted: dict[str, Any], output: Path, stored: StoredFrames) -> dict[str, Any]:
    """The plan that the folder was begun with, which must be the wanted one; a new folder is given the wanted one."""
    path = output / WORK / _PLAN
    done = output / RECORDS
    if not done.is_file() and not path.is_file():
        size = wanted["clips_per_shard"] or _suitable_size(source, wanted, stored)
        write_json(path, {**wanted, "clips_per_shard": size})
        return {**wanted, "clips_per_shard": size}
    begun = read_json(done)["plan"] if done.is_file() else read_json(path)
    for key, value in wanted.items():
        free = key == "clips_per_shard" and value is None
        if begun.get(key) != value and not free:
            raise SMCDError(
                f"{output}: was begun with other {key} ({_short(begun.get(key))}, now {_short(value)}): give the same, "
                "or choose another folder"
            )
    return begun


def _suitable_size(source: Source, plan: dict[str, Any], stored: StoredFrames) -> int:
    """Clips in a shard, judged by a few of them: the same for the same raw data."""
    split = max(plan["splits"], key=lambda name: plan["splits"][name]["clips"])
    clips = plan["splits"][split]["clips"]
    sizes = []
    for index in sorted({clips * sample // _SAMPLES for sample in range(_SAMPLES)}):
        with contextlib.suppress(BadClip):  # it will be counted when its turn comes
            sizes.append(sum(map(len, serialize(stored.apply(source.clip(split, index))))))
    for_size = TARGET_SHARD_BYTES * len(sizes) // sum(sizes) if sizes else clips
    return max(1, min(for_size, -(-clips // SMALLEST_NUMBER_OF_SHARDS)))


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


def _write_shards(
    source: Source,
    tasks: Sequence[ShardTask],
    *,
    workers: int,
    max_bad_share: float,
    runner: str | None,
    beam_options: Sequence[str],
) -> None:
    total = sum(task.stop - task.start for task in tasks)
    bad = _BadClips(total, max_bad_share)
    with tqdm(total=total, desc=f"prepare {source.name}", unit="clip", disable=None) as bar:
        if runner is None:
            run_here(source, tasks, workers=workers, advance=bar.update, done=bad.add)
        else:
            run_on_beam(source, tasks, runner=runner, options=beam_options)
            for task in tasks:
                bad.add(finished_shard(task))
    if bad.count == total:
        raise SMCDError(f"{source.name}: all {total} clips are bad, the first: {bad.first}: mend the raw data")


class _BadClips:
    """Counts skipped clips, and ends the work when they are more than the stated share of all."""

    def __init__(self, total: int, share: float):
        self.count, self.first = 0, ""
        self._total, self._share = total, share

    def add(self, part: dict[str, Any]) -> None:
        if part["skipped"] and not self.first:
            self.first = part["skipped"][0]["reason"]
        self.count += len(part["skipped"])
        if self.count > self._share * self._total:
            raise SMCDError(
                f"{self.count} of {self._total} clips are bad, more than the share of {self._share:g} that may be; the "
                f"first: {self.first}: mend the raw data or raise --max_bad_share"
            )


def _finish(output: Path, plan: dict[str, Any], parts: dict[str, list[dict[str, Any]]], raw: RawReport) -> None:
    """Indices, TFDS metadata and report, then `records.json`, which makes the folder whole."""
    contents = {}
    for split, shards in parts.items():
        _write_index(output, split, shards)
        entries = [
            {"file": part["file"], "bytes": part["bytes"], "clips": len(part["clip_ids"]), "sha256": part["sha256"]}
            for part in shards
        ]
        contents[split] = {"clips": sum(entry["clips"] for entry in entries), "shards": entries}
    _write_tfds_metadata(output, plan["name"], contents)
    write_json(output / REPORT, Report.of(plan["name"], parts, raw.notes).to_json())
    head = {"format": FORMAT, "version": VERSION, "schema_version": SCHEMA_VERSION, "name": plan["name"]}
    write_json(output / RECORDS, {**head, "plan": plan, "splits": contents})


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
    """`dataset_info.json` and `features.json`, by which TensorFlow Datasets finds its way in the folder."""
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
