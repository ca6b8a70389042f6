"""Owns an evaluation's folder: what it was begun with, so that another run does not mix with it, and its results.

```
OUTPUT/
  list.json            the evaluation list (`data_pipeline.evaluation_lists`)
  run.json             what its videos are made with; the same command goes on from there, another is refused
  clips/CLIP_ID/       frames as 0000.png, video.mp4, provenance.json; appears whole or not at all
  strips/CLIP_ID/      pictures for the pages
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
from smcd_jax.evaluation.measure_run import MeasureRun
from smcd_jax.evaluation.report.report_page import write_report
from smcd_jax.evaluation.report.results import Results
from smcd_jax.evaluation.report.strips import write_strips
from smcd_jax.evaluation.video_store import ClipStore
from smcd_jax.files import write_json
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-evaluation-run", 1
LIST, RUN, CLIPS = "list.json", "run.json", "clips"


def begin(folder: Path, made_with: Mapping[str, Any]) -> None:
    """Makes the folder and notes what its videos are made with, or finds that they are made with just that.

    Raises:
        SMCDError: it was begun with something else, which is named; or the folder cannot be written.
    """
    wanted = {"format": FORMAT, "version": VERSION, **made_with}
    path = folder / RUN
    make_folder(folder)
    if not path.is_file():
        write_json(path, wanted)
        return
    begun = read_json(path)
    for name, value in wanted.items():
        if not isinstance(begun, dict) or begun.get(name) != value:
            found = begun.get(name) if isinstance(begun, dict) else None
            raise SMCDError(f"{folder} was begun with {_other(name, found, value)}: give the same, or another --output")


def make_folder(folder: Path) -> None:
    """Makes the folder of an evaluation.

    Raises:
        SMCDError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SMCDError(
            f"cannot make {folder}: {(error.strerror or str(error)).lower()}; give another --output"
        ) from error


def first_entries(evaluation: EvaluationList, count: int | None) -> EvaluationList:
    """The list of the first entries, which are as good as any (they stand in random order).

    Raises:
        SMCDError: there are fewer than that.
    """
    if count is None:
        return evaluation
    if not 1 <= count <= len(evaluation.entries):
        raise SMCDError(f"--count {count}: the list holds {len(evaluation.entries)} clips; give 1 to that many")
    return dataclasses.replace(evaluation, entries=evaluation.entries[:count])


def measure(
    folder: Path,
    store: ClipStore,
    run: MeasureRun,
    names: Sequence[str],
    *,
    records: RecordFolder,
    evaluation: EvaluationList,
    max_objects: int,
    made_with: Mapping[str, Any] | None,
) -> Results:
    """Measures the clips of a store and writes what came out.

    Args:
        folder: of the evaluation.
        store: of the clips.
        run: that measures them.
        names: of the measures.
        records: that the clips are of.
        evaluation: the list measured.
        max_objects: of a clip.
        made_with: model and options of the videos, or None where another system has made them.

    Raises:
        SMCDError: no measure of such a name, or a file cannot be written.
    """
    figures = run.figures(names)
    described = {
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
    results = Results.of(store, figures, described)
    results.write(folder)
    write_strips(store, run.boxes, folder, run.progress)
    write_report(results, folder)
    return results


def _other(name: str, begun: Any, wanted: Any) -> str:
    if isinstance(begun, Mapping) and isinstance(wanted, Mapping):
        keys = [key for key in {**begun, **wanted} if begun.get(key) != wanted.get(key)]
        return f"other {name}: {keys[0]} was {begun.get(keys[0])!r:.60} and is now {wanted.get(keys[0])!r:.60}"
    return f"another {name} ({begun!r:.60}, now {wanted!r:.60})"
