"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import UsageError

__all__ = ["whole"]


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Give a name to write to, of the same ending; once that is done it becomes `path`, whose folder is made.

    Raises:
        UsageError: it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", field="out", value=str(path)) from None
    finally:
        with suppress(OSError):
            part.unlink()
