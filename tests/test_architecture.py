"""The code follows the layers shown in docs/architecture.md."""

from pathlib import Path

from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

ROOT = Path(__file__).parents[1]


def test_every_package_imports_only_from_layers_below_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    configure()
    kept = lint_imports(config_filename=str(ROOT / ".importlinter"), cache_dir=None)
    assert kept, "a contract of .importlinter is broken; the output above names the import"


def test_the_page_names_every_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {
        path.parent for package in ("smcd_jax", "data_pipeline") for path in (ROOT / package).glob("*/__init__.py")
    }
    missing = {str(folder.relative_to(ROOT)) for folder in packages if folder.relative_to(ROOT).as_posix() not in text}
    assert not missing
