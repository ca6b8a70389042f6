"""Samples and measures a fixed list of clips, or measures videos that any other system has made of them.

Some uses:
  smcd evaluate --model models/smcd --data records/got10k --split val --list got10k_val.json --output eval/smcd
  smcd evaluate --model tiny --data records/sprites --make_list 64 --output eval/tiny
  smcd evaluate --videos other/videos --data records/sprites --list eval/tiny/list.json --output eval/other
  smcd evaluate --data records/got10k --split val --make_list 180 --list got10k_val.json     # only makes the list
  smcd evaluate ... --part 2/4                               # samples a quarter, on one of four machines
The same command goes on after an interruption. Exit status 2 also where a clip is unusable, or where a measure that
was asked for by name did not run.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smcd_jax.cli import console
from smcd_jax.cli.animate import make_progress
from smcd_jax.cli.clip_options import SAMPLING, check_fps, sampling_options
from smcd_jax.cli.evaluate_flags import BY_THE_LIST, add_flags, check_flags
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from data_pipeline.evaluation_lists import EvaluationList
    from data_pipeline.records.reader import RecordFolder
    from smcd_jax.evaluation.report.results import Results
    from smcd_jax.evaluation.video_store import ClipStore
    from smcd_jax.pipeline import VideoPipeline

_FRAMES, _OBJECTS = 8, 8  # of the paper: where no model says otherwise
_EVERY = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `smcd evaluate`."""
    add_flags(parser)
    parser.epilog = __doc__


def run(args: argparse.Namespace) -> int:
    """Evaluates; 2 if a clip is unusable or a measure asked for by name did not run."""
    check_flags(args)
    _check_measures(args)
    setup = _open(args)
    if args.output is None:
        return 0
    made_with = None
    if setup.pipeline is not None:
        made_with, faults = _sample(args, setup)
        if args.part is not None:
            _tell_faults(faults)
            return 2 if faults else 0
    else:
        faults = []
    return _measure(args, setup, made_with, faults)


def _check_measures(args: argparse.Namespace) -> None:
    """What is asked for and cannot be is said now, not after hours of sampling."""
    from smcd_jax.evaluation.grounding_run import open_follower
    from smcd_jax.evaluation.measure_run import check_names
    from smcd_jax.evaluation.trackers.sprite_scenes import SpriteScenes

    check_names(args.measures or ())
    for name in args.trackers or ():
        open_follower(name, lambda: SpriteScenes(args.data))


class _Setup(NamedTuple):
    """What the flags name, opened."""

    records: RecordFolder
    full: EvaluationList
    evaluation: EvaluationList  # its beginning, where --count says so
    pipeline: VideoPipeline | None
    max_objects: int


def _open(args: argparse.Namespace) -> _Setup:
    from data_pipeline.evaluation_lists import read_evaluation_list
    from data_pipeline.records.reader import RecordFolder
    from smcd_jax.evaluation.run import LIST, first_entries, make_folder
    from smcd_jax.evaluation.video_store import check_list

    pipeline = None if args.model is None else _open_pipeline(args, verify=not args.no_verify)
    config = None if pipeline is None else pipeline.config
    path = args.list if args.list is not None else args.output / LIST
    if args.output is not None:
        make_folder(args.output)
    made = args.make_list is not None or (args.list is None and not path.is_file())
    if made:
        records = RecordFolder(args.data, args.split or "test")
        full = _made_list(args, records, path, frames=_FRAMES if config is None else config.frames)
    else:
        full = read_evaluation_list(path)
        records = RecordFolder(args.data, args.split or full.split)
    check_list(full, records, str(path))
    frames = getattr(args, "num_frames", None)
    if frames not in (None, full.frames):
        raise SMCDError(f"--num_frames {frames}, but {path} is of {full.frames} frames; leave it out")
    if args.output is not None and path != args.output / LIST:
        _keep_list(full, args.output / LIST)
    default = _OBJECTS if config is None else config.max_objects
    if config is not None and (args.max_objects or 0) > default:
        raise SMCDError(f"--max_objects {args.max_objects}: {args.model} takes {default} in a clip")
    return _Setup(records, full, first_entries(full, args.count), pipeline, args.max_objects or default)


def _made_list(args: argparse.Namespace, records: RecordFolder, path: Path, *, frames: int) -> EvaluationList:
    from data_pipeline.evaluation_lists import make_evaluation_list

    asked = args.make_list or _EVERY
    if asked != _EVERY and not (asked.isascii() and asked.isdigit()):
        raise SMCDError(f"--make_list {asked}: give a number of clips, or {_EVERY}")
    given = getattr(args, "num_frames", None)
    if given is not None and given < 1:
        raise SMCDError(f"--num_frames {given}: give 1 or more, or leave it out")
    made = make_evaluation_list(
        records,
        frames=given or frames,
        count=None if asked == _EVERY else int(asked),
        seed=args.list_seed,
    )
    _keep_list(made, path)
    if not args.quiet:
        console.progress_line(f"list of {len(made.entries)} clips: {path} (sha256 {made.sha256})")
    return made


def _keep_list(evaluation: EvaluationList, path: Path) -> None:
    """Writes the list, unless it is there; another one is not replaced."""
    from data_pipeline.evaluation_lists import read_evaluation_list

    if path.is_file():
        if read_evaluation_list(path).sha256 != evaluation.sha256:
            raise SMCDError(f"{path} is another list; give another --list or --output")
        return
    evaluation.write(path)


def _open_pipeline(args: argparse.Namespace, *, verify: bool) -> VideoPipeline:
    from smcd_jax.pipeline import VideoPipeline

    return VideoPipeline.from_pretrained(args.model, dtype=args.dtype, verify=verify)


def _sample(args: argparse.Namespace, setup: _Setup) -> tuple[dict[str, Any], list]:
    import jax
    import numpy as np

    from smcd_jax.cli.clip_run import SMALLER
    from smcd_jax.evaluation.run import CLIPS, begin
    from smcd_jax.evaluation.sampling_run import SamplingRun
    from smcd_jax.evaluation.video_store import read_all_asked
    from smcd_jax.pipeline.request import make_request
    from smcd_jax.runtime.memory import oom_as_user_error
    from smcd_jax.tracks import BoxTracks

    config = setup.pipeline.config
    given = {option.name: getattr(args, option.name) for option in SAMPLING if hasattr(args, option.name)}
    fps = float(given.pop("fps", config.fps))
    check_fps(fps, ())
    sizes = {"height": config.height, "width": config.width, "num_frames": setup.full.frames}
    chosen = sampling_options({**sizes, **given, "num_frames": setup.full.frames})
    model = setup.pipeline.model
    model.guidance(chosen.as_dict())
    setup.pipeline.solver_table(chosen)
    resolved = {**chosen.as_dict(), **model.resolved_scales(chosen.as_dict()), "fps": fps}
    options = {name: value for name, value in resolved.items() if name not in (*BY_THE_LIST, "negative_prompt")}
    asked, faults = read_all_asked(setup.records, setup.evaluation, max_objects=setup.max_objects, need_boxes=True)
    arguments = {name: value for name, value in chosen.as_dict().items() if name in options}
    for clip in asked[:1]:  # what the model refuses of one it refuses of all
        picture, tracks = np.zeros((8, 8, 3), np.uint8), BoxTracks(clip.boxes, clip.mask, clip.labels)
        make_request(model, image=picture, prompt=clip.caption, tracks=tracks, options=chosen)
    made_with = {
        "model": setup.pipeline.folder.digest,
        "options": {**options, "dtype": str(setup.pipeline.policy.compute)},
        "batch_size": args.batch_size,
    }
    told = {"list": setup.full.sha256, "records": setup.records.sha256, "max_objects": setup.max_objects}
    begin(args.output, {**told, **made_with, "platform": jax.devices()[0].platform})
    sampling = SamplingRun(
        args.output / CLIPS,
        arguments,
        fps=fps,
        said={"model": str(setup.pipeline.folder.path), "model_hash": made_with["model"], "options": options},
        batch_size=args.batch_size,
    )
    with oom_as_user_error(SMALLER):
        faults += sampling.run(
            asked,
            lambda first: _open_pipeline(args, verify=first and not args.no_verify),
            part=args.part or (1, 1),
            progress=make_progress(args),
        )
    return made_with, faults


def _measure(args: argparse.Namespace, setup: _Setup, made_with: dict[str, Any] | None, faults: list) -> int:
    from smcd_jax.evaluation.grounding_run import open_follower
    from smcd_jax.evaluation.measure_run import DEFAULT, MeasureRun
    from smcd_jax.evaluation.run import CLIPS, measure
    from smcd_jax.evaluation.trackers.sprite_scenes import NAME, SpriteScenes
    from smcd_jax.evaluation.video_store import ClipStore, read_all_asked

    progress = make_progress(args)
    asked, unread = read_all_asked(
        setup.records, setup.evaluation, max_objects=setup.max_objects, need_boxes=made_with is not None
    )
    known = {fault.clip_id for fault in faults}
    faults = [*faults, *(fault for fault in unread if fault.clip_id not in known)]
    asked = [clip for clip in asked if clip.clip_id not in known]
    folder = args.videos if made_with is None else args.output / CLIPS
    store = ClipStore(asked, folder, faults=faults, progress=progress)
    usual = ("sprites", "csrt") if setup.records.name == NAME else ("csrt",)
    measuring = MeasureRun(
        store,
        open_extractor=lambda name: _open_extractor(args, setup, name),
        open_follower=lambda name: open_follower(name, lambda: SpriteScenes(args.data)),
        trackers=args.trackers or usual,
        progress=progress,
    )
    results = measure(
        args.output,
        store,
        measuring,
        args.measures or DEFAULT,
        records=setup.records,
        evaluation=setup.evaluation,
        max_objects=setup.max_objects,
        made_with=made_with,
    )
    if args.vbench is not None:
        _export(args, setup, store)
    return _tell(args, results)


def _tell(args: argparse.Namespace, results: Results) -> int:
    from smcd_jax.evaluation.run import CLIPS
    from smcd_jax.evaluation.video_store import UNREADABLE

    for line in results.table():
        console.result(line)
    place = _weights_folder(args)
    if place and any(_WEIGHTS in figure.measure.note for figure in results.figures):
        console.result(f"{_WEIGHTS} is {place}")
    if not args.quiet:
        console.result(f"{len(results.clips)} clips measured; open {args.output / 'report.html'}")
    _tell_faults(results.faults)
    if args.videos is None and {fault.kind for fault in results.faults} & set(UNREADABLE):
        console.note(f"a clip that was damaged since is made again when its folder in {args.output / CLIPS} is deleted")
    missing = _asked_but_missing(args, results)
    if missing:
        console.error(f"asked for, but not run: {', '.join(missing)}; the lines under the table say why")
    return 2 if results.faults or missing else 0


def _asked_but_missing(args: argparse.Namespace, results: Results) -> list[str]:
    """What was asked for by name and did not run; that a correlation is not defined for these videos does not count."""
    from smcd_jax.evaluation.measure_run import KINDS

    names = [figure.measure.name for figure in results.figures if figure.measure.value is None]
    by_tracker = [name for name in names if name.startswith("grounding-")]
    return [
        *(by_tracker if args.trackers or "grounding" in (args.measures or ()) else ()),
        *(name for name in names if name in KINDS and args.measures),
    ]


def _tell_faults(faults: Any) -> None:
    from smcd_jax.evaluation.report.results import fault_lines

    for line in fault_lines(faults):
        console.error(line)


def _export(args: argparse.Namespace, setup: _Setup, store: ClipStore) -> None:
    from smcd_jax.evaluation.report.vbench import export_vbench

    fps = getattr(args, "fps", None) or (_FRAMES if setup.pipeline is None else setup.pipeline.config.fps)
    count = export_vbench(store, args.vbench, fps=fps, index=args.vbench_index)
    console.result(f"{count} clips for VBench-I2V in {args.vbench}")


_WEIGHTS = "the folder of --weights"


def _weights_folder(args: argparse.Namespace) -> Any:
    return args.weights or os.environ.get("SMCD_WEIGHTS_DIR")


def _open_extractor(args: argparse.Namespace, setup: _Setup, name: str) -> Any:
    from smcd_jax.cli.open_extractor import open_extractor

    try:
        return open_extractor(name, args.weights, model=setup.pipeline.folder if setup.pipeline else None)
    except SMCDError as error:
        place = _weights_folder(args)
        message = str(error)  # goes into metrics.json, which names no place of this machine
        raise SMCDError(message.replace(str(place), _WEIGHTS) if place else message) from error
