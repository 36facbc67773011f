"""Settings of the whole suite: one thread, fixed seeds, slow tests on request, real data where they are present."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import typed

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
TOYHOUSE = ROOT / "tests" / "toyhouse"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--typed", action="store_true", help="check types and shapes of core and apps (tests/typed.py)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--typed"):
        typed.install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: workers must find equal names, and compressed bytes may hold the time of day."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Fix the global generators and the number of threads, without importing what a test does not need."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def kept_types() -> Iterator[None]:
    """Fail a test during which a value of the wrong type or shape was refused, though nobody may have noticed."""
    before = len(typed.refused)
    yield
    if said := typed.refused[before:]:
        del typed.refused[before:]
        pytest.fail("\n".join(said), pytrace=False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; the test is skipped, visibly, where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data absent: ../shared/data")
    return folder


@pytest.fixture
def toy_app() -> Iterator[str]:
    """Make the toy app of the tests one of the apps, and return its name."""
    import apps

    apps.__path__.append(str(TOYHOUSE))
    apps.DOMAINS["toy"] = "the app of the tests"
    yield "toy"
    apps.__path__.remove(str(TOYHOUSE))
    del apps.DOMAINS["toy"]
