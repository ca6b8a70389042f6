"""Owns the pages of results: one HTML file that opens from the disk, with every clip's strips, sorted and filtered."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smcd_jax.evaluation.report.results import Results, fault_lines, in_digits
from smcd_jax.evaluation.report.strips import read_strips
from smcd_jax.evaluation.video_store import REFERENCES
from smcd_jax.files import write_atomically

REPORT = "report.html"

_STYLE = """\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.note{color:#555;font-size:.9em}
.bar{position:sticky;top:0;background:#fff;padding:.6rem 0;border-bottom:1px solid #ccc;display:flex;gap:1rem;
flex-wrap:wrap;align-items:center}input[type=search]{min-width:18rem;font:inherit}select{font:inherit}
article{padding:.8rem 0;border-bottom:1px solid #ddd}h2{font-size:1rem;margin:0}
article p{margin:.1rem 0 .5rem}figure{margin:.25rem 0;overflow-x:auto}figcaption{font-size:.8em;color:#555}
img{display:block;image-rendering:pixelated}"""

# Clips stand sorted in the file already, so that the page can be read without JavaScript too.
_SCRIPT = """\
"use strict";
const list = document.getElementById("clips");
const clips = Array.from(list.children).map(element => ({
  element, text: element.textContent.toLowerCase(), values: JSON.parse(element.dataset.values)}));
const measure = document.getElementById("measure"), order = document.getElementById("order");
const filter = document.getElementById("filter"), count = document.getElementById("count");
function show() {
  const option = measure.selectedOptions[0];
  const name = option ? option.value : "", sign = option && option.dataset.better === "lower" ? 1 : -1;
  const turn = order.value === "worst" ? -1 : 1, words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const rank = clip => name in clip.values ? sign * turn * clip.values[name] : Infinity;
  const sorted = clips.map((clip, index) => [rank(clip), index, clip]);
  sorted.sort((a, b) => a[0] === b[0] ? a[1] - b[1] : a[0] - b[0]);
  let shown = 0;
  for (const [, , clip] of sorted) {
    const fits = words.every(word => clip.text.includes(word));
    clip.element.hidden = !fits;
    shown += fits;
    const place = clip.element.querySelector(".value");
    place.textContent = name in clip.values ? name + " " + clip.values[name].toFixed(4) : "";
    list.appendChild(clip.element);
  }
  count.textContent = shown + " of " + clips.length + " clips";
}
for (const control of [measure, order]) control.addEventListener("change", show);
filter.addEventListener("input", show);
show();"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<h1>{title}</h1>
{intro}
<div class="bar">
<label>sorted by <select id="measure">{options}</select></label>
<label>from <select id="order"><option value="best">best to worst</option>
<option value="worst">worst to best</option></select></label>
<label>with the words <input type="search" id="filter" placeholder="clip, caption, label"></label>
<span id="count"></span>
</div>
<main id="clips">
{clips}
</main>
<script>
{script}
</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Card:
    """What a page shows of a clip.

    Attributes:
        title: its id.
        text: under the title: caption, labels.
        strips: pictures as URLs, by what is written above each.
        values: to sort by.
    """

    title: str
    text: str
    strips: Mapping[str, str]
    values: Mapping[str, float]


def write_page(
    path: Path, *, title: str, intro: Sequence[str], sort_by: Mapping[str, str], cards: Sequence[Card]
) -> Path:
    """Writes a page.

    Args:
        path: of the file.
        title: text.
        intro: paragraphs and tables as HTML (`table`, `paragraph`).
        sort_by: "higher" or "lower", whichever is better, of each name that cards may have a value of; cards are
            sorted by the first.
        cards: of the clips.

    Raises:
        SMCDError: the file cannot be written.
    """
    first = next(iter(sort_by), None)
    sign = 1 if first is not None and sort_by[first] == "lower" else -1
    ranked = sorted(cards, key=lambda card: sign * card.values[first] if first in card.values else float("inf"))
    options = "".join(
        f'<option value="{html.escape(name)}" data-better="{better}">{html.escape(name)}</option>'
        for name, better in sort_by.items()
    )
    text = _PAGE.format(
        title=html.escape(title),
        style=_STYLE,
        script=_SCRIPT,
        intro="\n".join(intro),
        options=options,
        clips="\n".join(map(_article, ranked)),
    )
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts as HTML."""
    line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"  # noqa: E731
    return "<table>\n" + "\n".join([line(header, "th"), *(line(row, "td") for row in rows)]) + "\n</table>"


def paragraph(text: str) -> str:
    """A text as HTML."""
    return f'<p class="note">{html.escape(text)}</p>'


def write_report(results: Results, folder: Path) -> Path:
    """Writes `report.html` of an evaluation, from its results and strips.

    Raises:
        SMCDError: the file cannot be written.
    """
    ran = [figure for figure in results.figures if figure.measure.value is not None]
    rows = [
        [
            figure.measure.name,
            figure.measure.better,
            in_digits(figure.measure.value),
            "-" if figure.measure.interval is None else " to ".join(map(in_digits, figure.measure.interval)),
            *(in_digits(figure.references.get(version)) for version in REFERENCES),
            str(figure.measure.count),
        ]
        for figure in ran
    ]
    header = ["measure", "better", "value", "95 % interval", "real clip", "still first frame", "slid crop", "clips"]
    lists = results.evaluation["list"]
    about = f"{len(results.clips)} clips of {lists['name']} ({lists['split']}), list {lists['sha256'][:12]}"
    by_clip = {figure.measure.name: figure.measure for figure in ran if figure.measure.per_clip}
    cards = [
        Card(
            clip.clip_id,
            f"{clip.caption} [{', '.join(clip.labels)}]",
            {_ABOVE[name]: url for name, url in read_strips(folder, clip.clip_id).items()},
            {name: of.per_clip[clip.clip_id] for name, of in by_clip.items() if clip.clip_id in of.per_clip},
        )
        for clip in results.clips
    ]
    return write_page(
        folder / REPORT,
        title="smcd evaluate",
        intro=[
            paragraph(about),
            paragraph(_made_with(results.evaluation["videos"]["made_with"])),
            table(header, rows),
            *map(paragraph, [*results.remarks(), *fault_lines(results.faults)]),
        ],
        sort_by={name: measure.better for name, measure in by_clip.items()},
        cards=cards,
    )


_ABOVE = {"real": "real, with its boxes", "generated": "generated, with the boxes asked for", "found": "as tracked"}


def _made_with(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "Videos that were made elsewhere."
    options = ", ".join(f"{name} {value}" for name, value in run["options"].items())
    return f"Made by the model {run['model'][:12]}, {run['batch_size']} at once: {options}"


def _article(card: Card) -> str:
    figures = "".join(
        f'<figure><figcaption>{html.escape(above)}</figcaption><img src="{url}" alt=""></figure>'
        for above, url in card.strips.items()
    )
    values = html.escape(json.dumps(dict(card.values)), quote=True)
    return (
        f'<article data-values="{values}"><h2>{html.escape(card.title)} <small class="value"></small></h2>'
        f"<p>{html.escape(card.text)}</p>{figures}</article>"
    )
