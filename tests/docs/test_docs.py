"""README and docs: the site builds, local links resolve, commands parse, and what they name exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smcd_jax.cli.parser import CommandParser

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md")),
        *(ROOT / "smcd_jax" / "assets" / "models" / name / "README.md" for name in ("small", "tiny")),
        *DOCS.glob("*.md"),
    ]
)
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def text_of(path: Path) -> str:
    """Returns the Markdown of a page, or of a notebook's Markdown cells."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def shell_commands(path: Path) -> Iterator[list[str]]:
    """Yields the words of every command line in a page's ```bash blocks or a notebook's %%bash cells."""
    blocks = [block[2] for block in CODE.finditer(text_of(path)) if block[1] == "bash"]
    if path.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        blocks += [cell.removeprefix("%%bash\n") for cell in cells if cell.startswith("%%bash")]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("||"):
                words = shlex.split(part, comments=True)
                if words:
                    yield words


COMMANDS = [(path, words) for path in [*PAGES, *NOTEBOOKS] for words in shell_commands(path)]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=named)
def test_local_links_resolve(path):
    for target in LINK.findall(text_of(path)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if path.suffix == ".ipynb" and not there.exists():
            there = there.with_suffix(".ipynb")
        generated = {DOCS / "contributing.md": ROOT / "CONTRIBUTING.md", DOCS / "changelog.md": ROOT / "CHANGELOG.md"}
        there = generated.get(there, there)
        assert there.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(there), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{target} has no such heading"


@pytest.mark.parametrize(
    ("path", "words"), COMMANDS, ids=[f"{named(path)}-{' '.join(words)[:60]}" for path, words in COMMANDS]
)
def test_commands_parse_and_name_what_exists(path, words):
    words = [word for word in words if "=" not in word or word.startswith("-")] if "=" in words[0] else words
    program, *arguments = words
    if program in ("bash", "sbatch"):
        script = next(word for word in arguments if "/" in word and not word.startswith("-"))
        assert os.access(ROOT / script, os.X_OK), f"{script} cannot be run"
        arguments = arguments[arguments.index(script) + 1 :]
    elif program.startswith("launch/"):
        assert os.access(ROOT / program, os.X_OK), f"{program} cannot be run"
        if program == "launch/tpu_vm.sh" and "--" in arguments:
            arguments = arguments[arguments.index("--") + 1 :]
    elif program == "smcd":
        parse_smcd(arguments)
    elif program == "python" and arguments[0].endswith(".py"):
        assert (ROOT / arguments[0]).is_file()
    elif program == "python":
        assert importlib.util.find_spec(arguments[1]) is not None
    elif program == "pip":
        extras = importlib.import_module("importlib.metadata").metadata("smcd_jax").get_all("Provides-Extra")
        wanted = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        missing = {extra for group in wanted for extra in group.split(",")} - {*extras, "docs"}
        assert not missing
    else:
        assert program in ("mkdocs", "ruff", "source", "test", "pre-commit"), f"{program} is not checked"
    for word in arguments:
        config = word.removeprefix("--config=")
        if re.match(r"configs/.*\.py", config):
            assert (ROOT / config.partition(":")[0]).is_file(), f"{config} does not exist"
        if word.startswith("smcd_jax/"):
            assert (ROOT / word).exists(), f"{word} does not exist"


def parse_smcd(arguments: list[str]) -> None:
    """Parses a command line with the command's own parser."""
    options = {"--debug", "--verbose"}
    command, *rest = [word for word in arguments if word not in options]
    module = importlib.import_module(f"smcd_jax.cli.{command}")
    parser = CommandParser(prog=f"smcd {command}")
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    if getattr(args, "config", None) and (ROOT / args.config.partition(":")[0]).is_file():
        from smcd_jax.training.config import load_config

        load_config(str(ROOT / args.config), args.overrides)


PYTHON = [(path, block[2]) for path in PAGES for block in CODE.finditer(text_of(path)) if block[1] == "python"]


@pytest.mark.parametrize(("path", "code"), PYTHON, ids=[f"{named(path)}-{code[:30]!r}" for path, code in PYTHON])
def test_python_imports_what_exists(path, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.usefixtures("shared_programs")
def test_the_quickstart_runs_as_it_stands(tmp_path, monkeypatch):
    (code,) = [block[2] for block in CODE.finditer(text_of(ROOT / "README.md")) if block[1] == "python"]
    (tmp_path / "smcd_jax").symlink_to(ROOT / "smcd_jax")
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["output"].frames.shape == (1, 8, 64, 64, 3)
    assert (tmp_path / "outputs" / "crossing.gif").stat().st_size > 0


@pytest.mark.slow
def test_the_trial_of_training_runs_as_it_stands(tmp_path, monkeypatch):
    (code,) = [block[2] for block in CODE.finditer(text_of(DOCS / "train.md")) if "records/trial" in block[2]]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # which gives the tests eight devices
    subprocess.run(["bash", "-e", "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "runs" / "trial" / "checkpoints" / "2").is_dir()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", [DOCS / "models.md", DOCS / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=named)
def test_named_files_exist(path):
    for name in re.findall(r"`((?:smcd_jax|data_pipeline|configs|tests|launch)/[\w./]*\.(?:py|sh))", text_of(path)):
        assert (ROOT / name).exists(), f"{name} does not exist"
    for name, part in re.findall(r"`(smcd_jax/[\w./]*\.py): (\w+)", text_of(path)):
        assert re.search(rf"\b{part}\b", (ROOT / name).read_text(encoding="utf-8")), f"{name} has no {part}"


def source_messages() -> list[str]:
    """Returns every string in the source, with `...` in place of formatted values."""
    found = [(ROOT / "launch" / "common.sh").read_text(encoding="utf-8")]
    for package in ("smcd_jax", "data_pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_messages_of_troubleshooting_are_those_of_the_source():
    text = "\n".join(source_messages())
    rows = re.findall(r"^\| `(.*?)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 20
    missing = []
    for row in rows:
        parts = [part.strip(" :;,.") for part in row.split("...")]
        pattern = ".*".join(re.escape(part) for part in parts if part)
        if not re.search(pattern, text):
            missing.append(row)
    assert not missing


def test_versions_of_formats_are_those_of_the_source():
    from data_pipeline.features import cache, clip_cache
    from data_pipeline.records import schema
    from smcd_jax import model_folder
    from smcd_jax.evaluation.report import results
    from smcd_jax.motion import motion_file
    from smcd_jax.tracks import track_file
    from smcd_jax.training.checkpoint import manifest

    rows = dict(re.findall(r"^\| ([^|]+?) \| (\d) \|", text_of(DOCS / "file_formats.md"), re.MULTILINE))
    assert {key: int(value) for key, value in rows.items()} == {
        "tracks, `smcd-tracks`": track_file.VERSION,
        "model folder, `smcd-model`": model_folder.VERSION,
        "checkpoint, `smcd-checkpoint`": manifest.VERSION,
        "records": schema.SCHEMA_VERSION,
        "feature cache": cache.VERSION,
        "feature cache of clips": clip_cache.VERSION,
        "motion, `smcd-motion`": motion_file.VERSION,
        "results, `metrics.json`": results.VERSION,
    }


def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings", "nbconvert"):
        if importlib.util.find_spec(module) is None:
            pytest.skip("needs the extra docs: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = [
        match
        for page in (tmp_path / "site").rglob("*.html")
        for match in re.findall(r'<(?:script|img|iframe)[^>]+src="?https?://[^"\s>]+', page.read_text(encoding="utf-8"))
    ]
    assert not loaded


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebooks_are_small_and_their_code_parses(path):
    assert path.stat().st_size < 1_000_000
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] == "code" and not code.startswith("%%"):
            ast.parse(code)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebooks_run(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs: pip install -e '.[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs: pip install -e '.[docs]'")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):  # set for tests: fast compilation and eight devices
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=3000, resources={"metadata": {"path": str(tmp_path)}}).execute()
