"""Terminal output of `smcd`: errors, notes, progress and results, and the log output of libraries."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Collection, Iterator

from tqdm import tqdm

_OURS = ("smcd_jax", "data_pipeline")
_LIBRARIES = ("absl", "etils", "flax", "jax", "orbax", "PIL", "tensorstore")


def error(message: str) -> None:
    """Writes an error as one line to stderr."""
    _write(f"smcd: error: {message}")


def note(message: str) -> None:
    """Writes a note about this run as one line to stderr."""
    _write(f"smcd: note: {message}")


def progress_line(message: str) -> None:
    """Writes the current activity as one line to stderr."""
    _write(f"smcd: {message}")


def result(message: str) -> None:
    """Writes a line of the result to stdout."""
    print(message, flush=True)


@contextlib.contextmanager
def libraries_quiet(verbose: bool) -> Iterator[None]:
    """Within the block, prints this project's warnings as notes and silences those of libraries.

    Args:
        verbose: Whether to show all logs and warnings instead.
    """
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, (*_OURS, *_LIBRARIES))]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    with warnings.catch_warnings():
        if verbose:
            _log_everything(root)
        else:
            _log_notes(root)
            if sys.unraisablehook is sys.__unraisablehook__:
                sys.unraisablehook = _print_unless_foreign  # left in place: native threads may outlive the block
        try:
            yield
        finally:
            for logger, level, propagate, handlers in before:
                logger.setLevel(level)
                logger.propagate = propagate
                logger.handlers[:] = handlers


@contextlib.contextmanager
def without_notes(printed: Collection[str]) -> Iterator[None]:
    """Within the block, suppresses notes that have been printed before.

    Args:
        printed: Texts of the notes that have been printed.
    """

    def is_new(record: logging.LogRecord) -> bool:
        return record.getMessage() not in printed

    handlers = [handler for name in _OURS for handler in logging.getLogger(name).handlers]
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


def _print_unless_foreign(unraisable: sys.UnraisableHookArgs) -> None:
    """Prints an unraisable exception, unless it comes from a library's native thread.

    After a failed save, threads of TensorStore call back into an event loop that is closed by then. The cause of the
    failure is reported by the main thread.
    """
    if threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(unraisable)


def _log_everything(root: logging.Logger) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    warnings.simplefilter("default")


def _log_notes(root: logging.Logger) -> None:
    # XLA writes to the terminal itself and reads this variable when it is loaded; 3 leaves only fatal errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow logs that oneDNN is on before it reads the level above; the input pipeline does not need oneDNN.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    warnings.simplefilter("ignore")
    root.addHandler(logging.NullHandler())  # without a handler Python prints warnings itself
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    for ours in map(logging.getLogger, _OURS):
        ours.handlers[:] = [_NoteHandler(logging.WARNING)]
        ours.propagate = False


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def _write(line: str) -> None:
    # A progress bar may occupy the last line of the terminal.
    tqdm.write(line, file=sys.stderr)
