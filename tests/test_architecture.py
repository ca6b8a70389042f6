"""The floors that docs/architecture.md draws hold in the code."""

from pathlib import Path

from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

ROOT = Path(__file__).parents[1]


def test_every_room_imports_only_what_its_floor_allows(monkeypatch):
    monkeypatch.chdir(ROOT)
    configure()
    kept = lint_imports(config_filename=str(ROOT / ".importlinter"), cache_dir=None)
    assert kept, "a contract of .importlinter is broken; the output above names the import"


def test_every_room_is_named_in_the_picture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        path.parent for package in ("smcd_jax", "data_pipeline") for path in (ROOT / package).glob("*/__init__.py")
    }
    missing = {str(room.relative_to(ROOT)) for room in rooms if room.relative_to(ROOT).as_posix() not in text}
    assert not missing
