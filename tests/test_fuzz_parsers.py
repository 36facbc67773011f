"""Whatever a file holds, its parser returns or says in one line what is wrong; found by spoiling valid files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks._parsers import PARSERS, Parser, attempt, spoil

QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", PARSERS)
def test_the_valid_file_is_read(name: str, tmp_path: Path) -> None:
    assert attempt(PARSERS[name], PARSERS[name].valid(), tmp_path) == "read"


@pytest.mark.parametrize("name", PARSERS)
def test_a_spoilt_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]

    @QUICK
    @given(st.integers(0, 2**32 - 1))
    def spoilt(seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert attempt(parser, spoil(parser.valid(), np.random.default_rng(seed)), tmp_path) in {"read", "refused"}

    spoilt()


@pytest.mark.parametrize("name", PARSERS)
def test_garbage_is_read_or_refused(name: str, tmp_path: Path) -> None:
    @settings(QUICK, max_examples=10)
    @given(st.one_of(st.binary(max_size=200), st.text(max_size=80).map(lambda text: text.encode())))
    def garbage(blob: bytes) -> None:
        assert attempt(PARSERS[name], blob, tmp_path) in {"read", "refused"}

    garbage()


def test_a_traceback_would_be_noticed(tmp_path: Path) -> None:
    broken = Parser("x", lambda: b"", lambda path: 1 / 0)
    assert attempt(broken, b"", tmp_path).startswith("ZeroDivisionError")
