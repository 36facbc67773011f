"""The one error family: a user's mistake is one line that names the field, the value and the nearest valid choice.

Exit codes: 0 ok, 1 the run failed, 2 usage or configuration, 3 data missing or corrupt, 130/143 signals.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["CheckpointError", "DataError", "InfeasibleError", "QuintetError", "UsageError", "nearest"]


def nearest(value: object, choices: Iterable[object], n: int = 1) -> list[str]:
    """Return up to `n` of `choices` that are spelt most like `value`, best first."""
    names = {str(c).lower(): str(c) for c in choices}
    return [names[m] for m in difflib.get_close_matches(str(value).lower(), list(names), n=n, cutoff=0.5)]


class QuintetError(Exception):
    """A failure that the user can act on.

    Args:
        message: what is wrong, in one line.
        field: the setting, column or file that is wrong.
        value: what was found there.
        choices: valid values; the nearest one is suggested.
        hint: what to do.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        choices: Iterable[object] | None = None,
        hint: str | None = None,
    ) -> None:
        self.field, self.value, self.hint = field, value, hint
        parts = [f"{field}: {message}" if field else message]
        if value is not None and repr(value) not in message and str(value) not in message:
            parts.append(f"got {value!r}")
        if choices is not None:
            listed = [str(c) for c in choices]
            close = nearest(value, listed)
            if not listed:
                parts.append("there is none")
            elif close:
                parts.append(f"did you mean {close[0]!r}?")
            else:
                parts.append("one of " + ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else ""))
        if hint:
            parts.append(hint)
        super().__init__("; ".join(" ".join(p.split()) for p in parts))


class UsageError(QuintetError):
    """A wrong option, recipe key or argument."""

    exit_code = 2


class InfeasibleError(UsageError):
    """A request that no object can satisfy, refused before sampling with the shortest reason."""


class DataError(QuintetError):
    """A file that is missing, malformed or not what it claims to be."""

    exit_code = 3


class CheckpointError(DataError):
    """A checkpoint that is damaged, incomplete or of another app."""
