"""No text in the tree uses words that readers stumbled over, and `Args:` entries have the required form."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".py", ".md", ".sh", ".sbatch", ".yaml", ".yml", ".toml", ".ipynb"}
WORDS = re.compile(
    r"\b(anew|goes on|go on|going on|mend(?:s|ed|ing)?|suffices?|sufficed|in words|in digits|(?-i:none is)|a row a"
    r"|one number an|(?:GB|GiB|line|value|step|clip|number)s? an? (?:chip|clip|row|core|example|line|device|step|call)"
    r"|what (?:was|is) (?:told|asked)|was told)\b",
    re.IGNORECASE,
)
# Files in which the words are data or code (`for word in words`).
ALLOWED = {"tests/docs/test_prose.py", "tests/docs/test_docs.py"}
SECTION = re.compile(r"^( *)(Args|Attributes|Raises):$")
ENTRY = re.compile(r"^( *)(\*{0,2}[A-Za-z_][\w.]*(?:, \*{0,2}[A-Za-z_]\w*)*): (.*)$")


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("needs a git checkout")
    names = done.stdout.decode().split("\0")
    return [name for name in names if Path(name).suffix in SUFFIXES and "tokenizer/" not in name]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    paths = {name: ROOT / name for name in tracked()}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}


def without_pictures(name: str, text: str) -> str:
    return re.sub(r'"image/png": "[^"]*"', "", text) if name.endswith(".ipynb") else text


def faulty_entries(text: str) -> list[str]:
    """Returns the Args, Attributes and Raises entries that do not start with a capital, a digit, a quote or code."""
    found, inside, indent = [], False, 0
    for line in text.splitlines():
        section = SECTION.match(line)
        if section:
            inside, indent = True, len(section[1]) + 4
            continue
        if not line.strip():
            continue
        level = len(line) - len(line.lstrip())
        if inside and level < indent:
            inside = False
        entry = ENTRY.match(line) if inside and level == indent else None
        if entry and not re.match(r"[A-Z0-9\"'`(\[]", entry[3]):
            found.append(line.strip())
    return found


def test_no_text_contains_a_word_that_readers_stumble_over(texts):
    hits = [
        f"{name}: {match[0]}"
        for name, text in texts.items()
        if name not in ALLOWED
        for match in WORDS.finditer(without_pictures(name, text))
    ]
    assert not hits, "\n".join(hits[:40])


def test_entries_of_docstrings_start_with_a_capital_letter(texts):
    entries = [
        f"{name}: {line}" for name, text in texts.items() if name.endswith(".py") for line in faulty_entries(text)
    ]
    assert not entries, "\n".join(entries[:40])


def test_the_rules_find_what_they_should():
    assert WORDS.search("the run goes on")
    assert WORDS.search("8 GB a chip")
    assert not WORDS.search("recommend an amendment")
    docstring = "    Args:\n        seed: of the draws.\n        steps: Number of steps.\n\n    Returns:\n"
    assert faulty_entries(docstring) == ["seed: of the draws."]
