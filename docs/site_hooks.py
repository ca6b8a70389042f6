"""Hooks of mkdocs.yml: notebooks as pages, pages whose source lies outside docs/, and links that work on both sides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
# Page of the site by its file in the repository.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "launch/README.md": "launch.md",
    "smcd_jax/assets/models/small/README.md": "model_card_small.md",
    "smcd_jax/assets/models/tiny/README.md": "model_card.md",
    "smcd_jax/assets/models/lvmm_tiny/README.md": "model_card_lvmm_tiny.md",
}
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages whose source lies outside docs/, and a page for every notebook."""
    for source, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=site_links(text, ROOT / source)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = notebook.src_uri.removesuffix(".ipynb")
        resources = {"output_files_dir": f"{name}_files", "unique_key": "output"}
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path, resources)
        files.remove(notebook)
        files.append(File.generated(config, f"{name}.md", content=site_links(text, Path(notebook.abs_src_path))))
        for path, data in resources["outputs"].items():
            files.append(File.generated(config, path, content=data))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links that leave docs/ into links to pages of the site."""
    generated = page.file.generated_by is not None
    return markdown if generated else site_links(markdown, ROOT / "docs" / page.file.src_uri)


def site_links(markdown: str, source: Path) -> str:
    """Returns the text with links to files of the repository replaced by links to pages of the site.

    Args:
        markdown: Text of a page.
        source: File that its links are relative to.
    """

    def target(match: re.Match[str]) -> str:
        file = (source.parent / match[1]).resolve()
        if not file.is_relative_to(ROOT):
            return match[1]
        relative = file.relative_to(ROOT).as_posix()
        page = PAGES.get(relative, relative.removeprefix("docs/"))
        return re.sub(r"\.ipynb$", ".md", page)

    return _LINK.sub(target, markdown)
