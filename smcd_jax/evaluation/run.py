"""The folder of an evaluation: its settings, which a resumed run must repeat, and its results.

```
OUTPUT/
  list.json            the evaluation list (`data_pipeline.evaluation_lists`)
  run.json             model and options of its videos; the same command resumes, other options are rejected
  clips/CLIP_ID/       frames as 0000.png, provenance.json, video.mp4 with PyAV; appears complete or not at all
  strips/CLIP_ID/      pictures for the HTML pages
  metrics.json  clips.csv  report.html
```
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.evaluation_lists import EvaluationList
from data_pipeline.records.reader import RecordFolder
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.measure_run import MetricRun
from smcd_jax.evaluation.report.report_page import write_report
from smcd_jax.evaluation.report.results import Results
from smcd_jax.evaluation.report.strips import write_strips
from smcd_jax.evaluation.video_store import VideoStore
from smcd_jax.files import write_json
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-evaluation-run", 1
LIST, RUN, CLIPS = "list.json", "run.json", "clips"


def start_or_resume(folder: Path, settings: Mapping[str, Any]) -> None:
    """Creates the folder and writes the settings of its videos, or checks that an existing folder has the same.

    Raises:
        SMCDError: The folder has other settings (the message names the first), or it cannot be written.
    """
    expected = {"format": FORMAT, "version": VERSION, **settings}
    path = folder / RUN
    make_folder(folder)
    if not path.is_file():
        write_json(path, expected)
        return
    stored = read_json(path)
    stored = stored if isinstance(stored, dict) else {}
    for name, value in expected.items():
        if stored.get(name) != value:
            key, before, now = _first_difference(name, stored.get(name), value)
            raise SMCDError(
                f"{folder}: {key} was {before!r:.60} when this evaluation started and is now {now!r:.60}; pass the "
                "same value or another --output",
                argument=key,
                path=folder,
                value=now,
            )


def make_folder(folder: Path) -> None:
    """Creates the folder of an evaluation.

    Raises:
        SMCDError: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SMCDError(
            f"{folder}: cannot create the folder ({reason}); pass another --output", argument="output", path=folder
        ) from error


def first_entries(evaluation: EvaluationList, count: int | None) -> EvaluationList:
    """Returns a list of the first ``count`` entries, which is a random sample because their order is random.

    Raises:
        SMCDError: The list has fewer entries.
    """
    if count is None:
        return evaluation
    if not 1 <= count <= len(evaluation.entries):
        raise SMCDError(
            f"--count must be from 1 to {len(evaluation.entries)} (the clips of the list), got {count}",
            argument="count",
            value=count,
        )
    return dataclasses.replace(evaluation, entries=evaluation.entries[:count])


def measure(
    folder: Path,
    store: VideoStore,
    run: MetricRun,
    names: Sequence[str],
    *,
    records: RecordFolder,
    evaluation: EvaluationList,
    max_objects: int,
    made_with: Mapping[str, Any] | None,
) -> Results:
    """Computes the metrics of a store's clips and writes results, strips and report.

    Args:
        folder: Folder of the evaluation.
        store: Clips and videos.
        run: Run that computes the metrics.
        names: Names of the metrics.
        records: Records of the clips.
        evaluation: Evaluation list.
        max_objects: Maximum number of objects per clip.
        made_with: Model and options of the videos; None if another system made them.

    Raises:
        SMCDError: A metric's name is unknown, or a file cannot be written.
    """
    rows = run.rows(names)
    settings = {
        "list": {
            "sha256": evaluation.sha256,
            "name": evaluation.name,
            "split": evaluation.split,
            "frames": evaluation.frames,
            "clips": len(evaluation.entries),
        },
        "records": records.sha256,
        "max_objects": max_objects,
        "videos": {"sha256": store.sha256, "made_with": None if made_with is None else dict(made_with)},
    }
    results = Results.of(store, rows, settings)
    results.write(folder)
    write_strips(store, run.boxes, folder, run.progress)
    write_report(results, folder)
    return results


def _first_difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Returns name and both values of the first setting that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        values = {key: (before.get(key, "absent"), now.get(key, "absent")) for key in {**before, **now}}
        return next((key, *pair) for key, pair in values.items() if pair[0] != pair[1])
    return name, before, now
