"""Where results go: seen to before anything is computed, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import UsageError
from core.run.guard import writable

__all__ = ["file", "folder", "replacing", "save"]


def file(out: Path) -> Path:
    """Return the path of a file that can be written; its folder may still be missing.

    Raises:
        UsageError: it is a folder, stands below a file, or in a folder that is closed.
    """
    if out.is_dir():
        raise UsageError("is a folder", field="out", value=str(out), hint="name a file")
    writable(out.parent)
    return out


def folder(out: Path) -> Path:
    """Return the path of a folder that can be filled; it may still be missing.

    Raises:
        UsageError: it is a file, stands below one, or is closed.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("is a file", field="out", value=str(out), hint="name a folder")
    writable(out)
    return out


@contextmanager
def replacing(out: Path | str) -> Iterator[Path]:
    """Yield a name of the same ending beside `out`, whose folder is made; unless something fails it becomes `out`.

    Raises:
        UsageError: the file cannot be written.
    """
    out = file(Path(out))
    part = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(out)
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror or error})", field="out", value=str(out)) from None
    finally:
        with suppress(OSError):
            part.unlink()


def save(out: Path | str, text: str) -> None:
    """Write a text in UTF-8 (errors as in `replacing`)."""
    with replacing(out) as part:
        part.write_text(text, encoding="utf-8")
