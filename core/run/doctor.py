"""What is installed, what the machine has, which data are here, and whether the machinery works: `quintet doctor`.

The self-test takes a few seconds and touches only a temporary folder:

    law          1,000 draws under a pattern that must stand and one that must not: all obey
    gradient     thirty steps of a small network: the loss falls, and a second run has the same bits
    checkpoint   written and read again; one flipped bit is noticed
    processes    a child process starts and answers
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import core
from core.errors import QuintetError

__all__ = ["Check", "examine", "installed", "selftest"]

Check = Callable[[Path], str]


def examine(domains: Iterable[str], test: bool = True) -> dict[str, Any]:
    """Return everything that can be found out, as plain values."""
    result = {"quintet": core.__version__, **machine(), "packages": installed(), "models": models(), "data": data()}
    result["apps"] = {name: commands(name) for name in domains}
    return result | ({"selftest": selftest()} if test else {})


def machine() -> dict[str, Any]:
    """Return Python, the processor, threads, memory, the accelerator and the room on the disk."""
    import torch

    pages = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    memory = os.sysconf(pages[0]) * os.sysconf(pages[1]) / 2**30 if all(p in os.sysconf_names for p in pages) else 0.0
    here = Path.cwd()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "memory_gb": round(memory, 1),
        "device": device(),
        "free_disk_gb": round(shutil.disk_usage(here).free / 2**30, 1),
        "folder_writable": os.access(here, os.W_OK),
    }


def device() -> str:
    """Return the accelerator that `trainer=gpu` would use, or cpu."""
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}, {torch.cuda.device_count()} in all"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def installed() -> dict[str, str]:
    """Return the version of each declared package, or `missing`, with the extra that it belongs to."""
    try:
        wanted = importlib.metadata.requires("quintet") or []
    except importlib.metadata.PackageNotFoundError:
        return {"quintet": "runs from a folder, not installed: pip install -e ."}
    found = {}
    for line in wanted:
        name, extra = re.split(r"[\s<>=!~;\[]", line)[0], re.search(r"extra == ['\"](\w+)['\"]", line)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = f"missing (pip install quintet[{extra[1]}])" if extra else "missing"
        found[f"{extra[1]}: {name}" if extra else name] = version
    return found


def models() -> dict[str, str]:
    """Return the weights that ship: `ok`, or what is wrong with them."""
    from core.run.checkpoint import load
    from core.run.fetch import data_root

    found = {}
    for path in sorted((data_root() / "models").glob("*")):
        try:
            found[path.name] = "ok" if load(path).app else ""
        except QuintetError as error:
            found[path.name] = str(error)
    return found


def data() -> dict[str, str]:
    """Return where the cache is and, for each known public data set, whether it is there."""
    from core.run.fetch import cache, registry

    place = cache()
    found = {"cache": f"{place} ({'there' if place.is_dir() else 'not made yet'})"}
    for name, entry in registry().items():
        here = bool(entry["files"]) and all((place / name / file["name"]).is_file() for file in entry["files"])
        found[name] = "here" if here else ("not fetched" if entry["files"] else f"by hand from {entry['page']}")
    return found


def commands(domain: str) -> str:
    """Return the verbs of an app, or why its command line cannot be imported."""
    import importlib

    import typer

    try:
        group: Any = typer.main.get_command(importlib.import_module(f"apps.{domain}.cli").app)
    except ImportError as error:
        return f"broken: {error}"
    return " ".join(group.list_commands(group.make_context("quintet", [], resilient_parsing=True)))


def selftest() -> dict[str, str]:
    """Run each check and return what it found; one that fails says so instead of ending the others."""
    found = {}
    checks: dict[str, Check] = {"law": law, "gradient": gradient, "checkpoint": checkpoint, "processes": processes}
    for name, check in checks.items():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="quintet-doctor-") as folder:
            try:
                said = check(Path(folder))
            except Exception as error:  # noqa: BLE001  a broken installation fails in ways that nobody foresees
                said = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())}"
        found[name] = f"{said} ({time.perf_counter() - began:.1f} s)"
    return found


def law(folder: Path) -> str:
    """Draw under a law and count what breaks it."""
    import numpy as np
    import torch

    from core.constrain import regular
    from core.constrain.automaton import contains, forbid
    from core.noise import Stream

    rows, length = 1000, 16
    rule = contains([[1], [2], [1]], 4) & forbid([[0, 0]], 4)
    window = regular.law(rule, rows, length).window(np.zeros(rows, np.int64), np.arange(rows), length, 0)
    nothing = torch.full((rows, length), -1)
    x = window.admit(torch.zeros(rows, length, 4), nothing, nothing < 0, Stream.of(0, rows).uniform(length))
    text = ["".join(map(str, row)) for row in x.tolist()]
    wrong = sum("121" not in t or "00" in t for t in text)
    if wrong:
        raise QuintetError(f"{wrong} of {rows} draws break the law", field="law")
    return f"{rows} draws, all obey"


def losses() -> list[float]:
    """Return the loss of thirty steps of a small network."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
        optimizer, found = torch.optim.AdamW(net.parameters(), lr=1e-2), []
        x = torch.rand(64, 8)
        for _ in range(30):
            loss = (net(x)[:, 0] - x.sum(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
    return found


def gradient(folder: Path) -> str:
    """Train twice and compare."""
    first, again = losses(), losses()
    if not first[-1] < 0.5 * first[0]:
        raise QuintetError("the loss does not fall", field="gradient", value=first[-1])
    if first != again:
        raise QuintetError("two runs with one seed differ", field="gradient", hint="OMP_NUM_THREADS=1 may help")
    return f"loss {first[0]:.2f} to {first[-1]:.2f}, the same bits twice"


def checkpoint(folder: Path) -> str:
    """Write a checkpoint, read it, damage it, and see the damage noticed."""
    import torch

    from core.errors import CheckpointError
    from core.run import checkpoint as store

    path = store.save(folder, app="doctor", config={}, step=1, module_state={"w": torch.arange(64.0)})
    if not torch.equal(store.load(path).weights["w"], torch.arange(64.0)):
        raise QuintetError("what was read is not what was written", field="checkpoint")
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    try:
        store.load(path)
    except CheckpointError:
        return "read back, damage noticed"
    raise QuintetError("a flipped byte was not noticed", field="checkpoint")


def processes(folder: Path) -> str:
    """Start a child."""
    done = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, timeout=30)
    if done.stdout.strip() != "42":
        raise QuintetError("a child process did not answer", field="processes", value=done.stderr[-200:])
    return "a child process answers"


def verdict(result: dict[str, Any]) -> list[str]:
    """Return what is broken in a result of `examine`, in words."""
    wrong = [f"package {n}: {v}" for n, v in result["packages"].items() if v == "missing"]
    wrong += [f"model {n}: {v}" for n, v in result["models"].items() if v != "ok"]
    wrong += [f"app {n}: {v}" for n, v in result["apps"].items() if v.startswith("broken")]
    return wrong + [f"self-test {n}: {v}" for n, v in result.get("selftest", {}).items() if v.startswith("FAILED")]
