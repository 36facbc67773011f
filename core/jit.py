"""Compiled loops: numba, with its results kept on disk wherever a folder can be written.

numba keeps compiled code beside the source, or else under the user's cache folder. Where neither can be written (a
package installed read-only, a service without a home) it refuses to define the function at all; then the function is
compiled afresh in each process instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["jit"]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` compiled without the interpreter lock, cached on disk where that is possible."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(nogil=True)(function)
