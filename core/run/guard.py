"""What stands between a run and the world: a folder that takes it, one run in each, signals that wait."""

from __future__ import annotations

import fcntl
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import QuintetError, UsageError

__all__ = ["Interrupted", "reserved", "signals", "target", "writable"]


def target(out: str | Path) -> Path:
    """Return the path that was typed.

    Raises:
        UsageError: nothing was, which would be the present folder.
    """
    if not str(out).strip():
        raise UsageError("is empty", field="out", value=str(out), hint="the present folder is '.'")
    return Path(out)


def writable(out: Path | None) -> Path | None:
    """Return a path unless nothing can be written there; told before anything is computed.

    Raises:
        UsageError: it stands below a file, or in a folder that is closed.
    """
    there = next((p for p in (out, *out.parents) if p.exists()), None) if out is not None else None
    if there is not None and there != out and not there.is_dir():
        raise UsageError(f"{there} is a file", field="out", value=str(out))
    try:
        if there is not None and there.is_dir():
            tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", field="out", value=str(out)) from None
    return out


class Interrupted(QuintetError):
    """A signal ended the run after its checkpoint was saved; exit code 128 + signal."""

    def __init__(self, number: int, step: int, out: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}; checkpoint saved in {out}",
            hint="the same command resumes",
        )
        self.exit_code = 128 + number


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying from them; a second SIGINT interrupts at once."""
    caught: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if number == signal.SIGINT and caught:
            raise KeyboardInterrupt
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def reserved(out: Path, active: bool) -> Iterator[None]:
    """Hold a run's folder: refuse one that is not writable or that another run holds."""
    if not active:
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "checkpoints").mkdir(exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", field="out", value=str(out)) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError("another run is using this folder", field="out", value=str(out)) from None
        yield
