"""Training restarts once with huge pages, where Linux gives them on request."""

import os
import sys

import pytest

from smcd_jax import cli
from smcd_jax.cli import huge_pages
from smcd_jax.cli.huge_pages import requested_tunables

MADVISE = "always [madvise] never\n"


def test_huge_pages_are_requested_beside_other_tunables():
    assert requested_tunables({}, (2, 36), MADVISE) == "glibc.malloc.hugetlb=1"
    given = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}
    assert requested_tunables(given, (2, 36), MADVISE) == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("environment", "glibc", "setting"),
    [
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, (2, 36), MADVISE),  # the user's choice
        ({}, (2, 31), MADVISE),
        ({}, (), MADVISE),
        ({}, (2, 36), "[always] madvise never\n"),
        ({}, (2, 36), "always madvise [never]\n"),
        ({}, (2, 36), ""),
    ],
)
def test_nothing_is_requested_where_it_has_no_effect(environment, glibc, setting):
    assert requested_tunables(environment, glibc, setting) is None


@pytest.fixture
def restarts(monkeypatch):
    """Arguments and tunables of the processes that would have been started."""
    found = []
    monkeypatch.setattr(huge_pages, "_setting", lambda: MADVISE)
    monkeypatch.setattr(huge_pages, "glibc_version", lambda: (2, 36))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "smcd_jax", "--debug", "train", "--help"])
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execve", lambda file, words, env: found.append((file, words, env["GLIBC_TUNABLES"])))
    return found


def test_the_same_command_is_started_again(restarts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smcd", "--debug", "train", "--help"])
    cli.main()
    words = [sys.executable, "-m", "smcd_jax", "--debug", "train", "--help"]
    assert restarts == [(sys.executable, words, "glibc.malloc.hugetlb=1")]


def test_other_commands_and_calls_from_python_are_not(restarts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smcd", "tracks", "--help"])
    cli.main()
    cli.main(["train", "--help"])
    assert restarts == []
