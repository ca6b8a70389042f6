"""`smcd evaluate`: samples and measures a fixed list of clips, or measures existing videos of these clips."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smcd_jax.cli import console
from smcd_jax.cli.clip_options import SAMPLING
from smcd_jax.cli.clip_reporting import make_progress
from smcd_jax.cli.evaluate_flags import SET_BY_LIST, add_flags, check_flags
from smcd_jax.errors import SMCDError
from smcd_jax.sampling_options import check_fps, from_values

if TYPE_CHECKING:
    from data_pipeline.evaluation_lists import EvaluationList
    from data_pipeline.records.reader import RecordFolder
    from smcd_jax.evaluation.report.results import Results
    from smcd_jax.evaluation.video_store import EvalClip, Fault, VideoStore
    from smcd_jax.pipeline import VideoPipeline

_FRAMES, _OBJECTS = 8, 8  # values of the paper, used if there is no model
_ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd evaluate`."""
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the evaluation; returns 2 if a clip could not be used or a metric requested by name did not run."""
    check_flags(args)
    _check_metrics(args)
    setup = _open(args)
    if args.output is None:
        return 0
    made_with, faults = None, []
    if setup.pipeline is not None:
        made_with, faults = _sample(args, setup)
        if args.part is not None:
            _print_faults(faults)
            return 2 if faults else 0
    return _measure(args, setup, made_with, faults)


def _check_metrics(args: argparse.Namespace) -> None:
    """Raises an error for unknown metrics or trackers or a missing report library, before hours of sampling."""
    from smcd_jax.evaluation.grounding_run import open_tracker
    from smcd_jax.evaluation.metric_specs import check_names
    from smcd_jax.evaluation.report.report_page import load_template
    from smcd_jax.evaluation.trackers.sprite_scenes import SpriteScenes

    if args.output is not None:
        load_template()
    check_names(args.metrics or ())
    for name in args.trackers or ():
        open_tracker(name, lambda: SpriteScenes(args.data))


class _Setup(NamedTuple):
    """The opened inputs of an evaluation."""

    records: RecordFolder
    full: EvaluationList
    evaluation: EvaluationList  # the first --count entries of the full list
    pipeline: VideoPipeline | None
    max_objects: int

    def read_clips(self, intervention: str | None) -> tuple[list[EvalClip], list[Fault]]:
        """Returns the usable clips of the list, with the intervention applied, and the faults of the other clips."""
        from smcd_jax.evaluation.interventions import apply_intervention
        from smcd_jax.evaluation.video_store import read_eval_clips

        need_boxes = self.pipeline is not None
        clips, faults = read_eval_clips(
            self.records, self.evaluation, max_objects=self.max_objects, need_boxes=need_boxes
        )
        return (apply_intervention(clips, intervention) if intervention else clips), faults


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
    if args.make_list is not None or (args.list is None and not path.is_file()):
        records = RecordFolder(args.data, args.split or "test")
        full = _make_list(args, records, path, frames=_FRAMES if config is None else config.frames)
    else:
        full = read_evaluation_list(path)
        records = RecordFolder(args.data, args.split or full.split)
    check_list(full, records, str(path))
    frames = getattr(args, "num_frames", None)
    if frames not in (None, full.frames):
        raise SMCDError(
            f"--num_frames must be {full.frames} or omitted, to match the list {path}, got {frames}",
            argument="num_frames",
            path=path,
            value=frames,
        )
    if args.output is not None and path != args.output / LIST:
        _keep_list(full, args.output / LIST)
    default = _OBJECTS if config is None else config.max_objects
    if config is not None and (args.max_objects or 0) > default:
        raise SMCDError(
            f"--max_objects must be at most {default} for {args.model}, got {args.max_objects}",
            argument="max_objects",
            value=args.max_objects,
        )
    return _Setup(records, full, first_entries(full, args.count), pipeline, args.max_objects or default)


def _make_list(args: argparse.Namespace, records: RecordFolder, path: Path, *, frames: int) -> EvaluationList:
    from data_pipeline.evaluation_lists import make_evaluation_list

    count = args.make_list or _ALL
    if count != _ALL and not (count.isascii() and count.isdigit()):
        raise SMCDError(
            f"--make_list must be a number of clips or {_ALL!r}, got {count!r}", argument="make_list", value=count
        )
    num_frames = getattr(args, "num_frames", None)
    if num_frames is not None and num_frames < 1:
        raise SMCDError(f"--num_frames must be at least 1, got {num_frames}", argument="num_frames", value=num_frames)
    evaluation = make_evaluation_list(
        records,
        frames=num_frames or frames,
        count=None if count == _ALL else int(count),
        seed=args.list_seed,
    )
    _keep_list(evaluation, path)
    if not args.quiet:
        console.progress_line(f"list of {len(evaluation.entries)} clips: {path} (sha256 {evaluation.sha256})")
    return evaluation


def _keep_list(evaluation: EvaluationList, path: Path) -> None:
    """Writes the list unless it exists; a different list is never replaced."""
    from data_pipeline.evaluation_lists import read_evaluation_list

    if path.is_file():
        if read_evaluation_list(path).sha256 != evaluation.sha256:
            raise SMCDError(
                f"{path}: holds a different list; pass another --list or --output", argument="list", path=path
            )
        return
    evaluation.write(path)


def _open_pipeline(args: argparse.Namespace, *, verify: bool) -> VideoPipeline:
    from smcd_jax.pipeline import VideoPipeline

    return VideoPipeline.from_pretrained(args.model, dtype=args.dtype, verify=verify)


def _sample(args: argparse.Namespace, setup: _Setup) -> tuple[dict[str, Any], list[Fault]]:
    import jax

    from smcd_jax.evaluation.run import CLIPS, start_or_resume
    from smcd_jax.evaluation.sampling_run import SamplingRun
    from smcd_jax.pipeline.clip_run import SMALLER
    from smcd_jax.runtime.memory import oom_as_user_error

    clips, faults = setup.read_clips(args.intervention)
    options, arguments = _sampling_options(args, setup, clips[:1])
    made_with = {
        "model": setup.pipeline.folder.digest,
        "options": {**options, "dtype": str(setup.pipeline.policy.compute)},
        "batch_size": args.batch_size,
        **({"intervention": args.intervention} if args.intervention else {}),
    }
    clip_settings = {
        "list": setup.full.sha256,
        "records": setup.records.sha256,
        "max_objects": setup.max_objects,
    }
    start_or_resume(args.output, {**clip_settings, **made_with, "platform": jax.devices()[0].platform})
    sampling = SamplingRun(
        args.output / CLIPS,
        arguments,
        fps=options["fps"],
        provenance={
            "model": str(setup.pipeline.folder.path),
            "model_hash": made_with["model"],
            "options": options,
            "intervention": args.intervention,
        },
        batch_size=args.batch_size,
    )
    with oom_as_user_error(SMALLER):
        faults += sampling.run(
            clips,
            lambda first: _open_pipeline(args, verify=first and not args.no_verify),
            part=args.part or (1, 1),
            progress=make_progress(args),
        )
    return made_with, faults


def _sampling_options(
    args: argparse.Namespace, setup: _Setup, first: list[EvalClip]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the sampling options to record and the arguments for the pipeline's call, checked on the first clip."""
    import numpy as np

    from smcd_jax.pipeline.request import make_request

    config, model = setup.pipeline.config, setup.pipeline.model
    given = {option.name: getattr(args, option.name) for option in SAMPLING if hasattr(args, option.name)}
    fps = float(given.pop("fps", config.fps))
    check_fps(fps, ())
    chosen = model.resolve(from_values({**given, "num_frames": setup.full.frames}))
    model.guidance(chosen.as_dict())
    model.solver_table(chosen)
    for clip in first:  # options that are invalid for one clip are invalid for all
        picture = np.zeros((8, 8, 3), np.uint8)
        tracks = clip.tracks if model.takes_tracks else None
        make_request(model, image=picture, prompt=clip.caption, tracks=tracks, options=chosen)
    arguments = {
        name: value for name, value in chosen.as_dict().items() if value is not None and name not in SET_BY_LIST
    }
    return {**arguments, "fps": fps}, arguments


def _measure(args: argparse.Namespace, setup: _Setup, made_with: dict[str, Any] | None, faults: list[Fault]) -> int:
    from smcd_jax.evaluation.grounding_run import open_tracker
    from smcd_jax.evaluation.measure_run import MetricRun
    from smcd_jax.evaluation.metric_specs import DEFAULT_METRICS
    from smcd_jax.evaluation.run import CLIPS, measure
    from smcd_jax.evaluation.trackers.sprite_scenes import NAME, SpriteScenes
    from smcd_jax.evaluation.video_store import VideoStore

    progress = make_progress(args)
    clips, unread = setup.read_clips(args.intervention)
    known = {fault.clip_id for fault in faults}
    faults = [*faults, *(fault for fault in unread if fault.clip_id not in known)]
    clips = [clip for clip in clips if clip.clip_id not in known]
    folder = args.videos if made_with is None else args.output / CLIPS
    store = VideoStore(clips, folder, faults=faults, progress=progress)
    metric_run = MetricRun(
        store,
        open_extractor=lambda name: _open_extractor(args, setup, name),
        open_tracker=lambda name: open_tracker(name, lambda: SpriteScenes(args.data)),
        trackers=args.trackers or (("sprites", "csrt") if setup.records.name == NAME else ("csrt",)),
        difference_from=args.difference_from,
        workers=args.workers,
        progress=progress,
    )
    difference = ("pixel-difference",) if args.difference_from else ()
    results = measure(
        args.output,
        store,
        metric_run,
        (*(args.metrics or DEFAULT_METRICS), *difference),
        records=setup.records,
        evaluation=setup.evaluation,
        max_objects=setup.max_objects,
        made_with=made_with,
    )
    if args.vbench is not None:
        _export_vbench(args, setup, store)
    return _print_results(args, results)


def _print_results(args: argparse.Namespace, results: Results) -> int:
    from smcd_jax.evaluation.run import CLIPS
    from smcd_jax.evaluation.video_store import UNREADABLE

    for line in results.table():
        console.result(line)
    folder = _weights_folder(args)
    if folder and any(_WEIGHTS in row.metric.note for row in results.rows):
        console.result(f"{_WEIGHTS} is {folder}")
    if not args.quiet:
        console.result(f"{len(results.clips)} clips measured; open {args.output / 'report.html'}")
    _print_faults(results.faults)
    if args.videos is None and {fault.kind for fault in results.faults} & set(UNREADABLE):
        console.note(f"to sample a damaged clip again, delete its folder in {args.output / CLIPS} and rerun")
    missing = _requested_but_missing(args, results)
    if missing:
        console.error(f"metrics requested but not run: {', '.join(missing)}; see the notes below the table")
    return 2 if results.faults or missing else 0


def _requested_but_missing(args: argparse.Namespace, results: Results) -> list[str]:
    """Returns the requested metrics that did not run, except correlations that are undefined for these videos."""
    from smcd_jax.evaluation.metric_specs import METRICS

    names = [row.metric.name for row in results.rows if row.metric.value is None]
    by_tracker = [name for name in names if name.startswith("grounding-")]
    return [
        *(by_tracker if args.trackers or "grounding" in (args.metrics or ()) else ()),
        *(name for name in names if name in METRICS and (args.metrics or name == "pixel-difference")),
    ]


def _print_faults(faults: Any) -> None:
    from smcd_jax.evaluation.report.results import fault_lines

    for line in fault_lines(faults):
        console.error(line)


def _export_vbench(args: argparse.Namespace, setup: _Setup, store: VideoStore) -> None:
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
        folder = _weights_folder(args)
        message = str(error)  # written to metrics.json, which must not contain local paths
        raise SMCDError(
            message.replace(str(folder), _WEIGHTS) if folder else message,
            argument=error.argument,
            path=error.path,
            value=error.value,
        ) from error
