"""From the words of `train` to a run: Hydra composes, sweeps and launches; `core.run.train` trains.

The words are split into a recipe (the first that is neither a flag nor an override), overrides (`key=value`, `+key`,
`~key`) and Hydra's own flags (`-m`, `--cfg job`, ...). Before anything starts each composition of a sweep is checked,
so that a mistake is one line and not the traceback of a job. Then `hydra.main` takes over: multirun, launchers,
sweepers and output folders are Hydra's. Flags go first: argparse refuses overrides that a flag splits.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.errors import QuintetError, UsageError
from core.run.config import entries, instance, load_recipe, locate, place, quoted, register, searchpath, variants

__all__ = ["Order", "launch", "read"]

CONFIG, INFO = ("job", "hydra", "all"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
VALUED = {"--cfg": CONFIG, "-c": CONFIG, "--info": INFO, "-i": INFO}
FLAGS = ("-m", "--multirun", "--resolve", "--hydra-help", "--help", "--out", "--initial", "--json")
REFUSED = {"--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--run", "-r"}


@dataclasses.dataclass(frozen=True)
class Order:
    """What the user asked for: a recipe, overrides and Hydra's flags."""

    recipe: str
    overrides: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def sweep(self) -> bool:
        """Whether Hydra is to run several jobs."""
        return bool({"-m", "--multirun"} & set(self.flags))


def read(words: Sequence[str], default: str = "toy") -> Order:
    """Sort the words of the command line."""
    recipe, overrides, flags = None, [], []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.partition("=")[0]:
            raise UsageError("is neither a recipe nor an override (key=value)", field="argument", value=word)
        if word.split("=")[0] in REFUSED:
            raise UsageError("give the recipe by name or as a path to a YAML file", field=word)
        if word in VALUED:
            flags += [word, value := queue.pop(0) if queue else ""]
            if value not in VALUED[word]:
                raise UsageError("no such choice", field=word, value=value, choices=VALUED[word])
        elif word.startswith("-"):
            if word not in {*FLAGS, *VALUED}:
                raise UsageError("no such option", field="argument", value=word, choices=(*FLAGS, *sorted(VALUED)))
            flags.append(word)
        elif "=" in word or word[0] in "+~":
            overrides.append(word)
        elif recipe is None:
            recipe = word
        else:
            raise UsageError("is neither an override (key=value) nor a flag", field="argument", value=word)
    return Order(recipe or default, tuple(overrides), tuple(flags))


def launch(domain: str, order: Order, *, schema: str, out: Path | None, initial: Path | None) -> list[Any]:
    """Check the order, run it through `hydra.main` and return a `TrainResult` for each job that trained."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from core.run.checkpoint import load

    plain = [o for o in order.overrides if not o.lstrip("+~").startswith("hydra")]
    for chosen in variants(plain) if order.sweep else [plain]:
        load_recipe(domain, order.recipe, chosen, schema)
    results: list[Any] = []
    words = sys.argv

    def job(config: Any) -> float | None:
        ours, sys.argv = sys.argv, words  # Fabric starts its other processes with this very command
        try:
            folder = Path(HydraConfig.get().runtime.output_dir)
            result = run(domain, instance(config, schema), folder, initial)
        except QuintetError as error:  # Hydra would print a traceback
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        finally:
            sys.argv = ours
        results.append(result)
        return result.metrics.get("loss")

    folder, stem = place(domain, order.recipe)
    register(schema)
    if out is not None and out.is_file():
        raise UsageError("is a file", field="out", value=str(out))
    if initial is not None:
        load(initial, app=domain)  # a wrong one is told before the data are read
    defaults = hydra_defaults(domain, stem, out or Path("runs") / domain / stem)
    given = {o.partition("=")[0] for o in order.overrides}
    wanted = [*(d for d in defaults if d.partition("=")[0] not in given), *entries(order.overrides, schema)]
    sys.argv = [words[0], *order.flags, *wanted]
    try:
        hydra.main(version_base=None, config_path=str(folder), config_name=stem)(job)()
    finally:
        sys.argv = words
    return results


def hydra_defaults(domain: str, stem: str, out: Path) -> list[str]:
    """Return the overrides that give Hydra our folders and keep its console log off stdout."""
    return [
        searchpath(domain),
        f"hydra.job.name={stem}",
        f"hydra.run.dir={quoted(out)}",
        f"hydra.sweep.dir={quoted(out)}",
        "hydra.sweep.subdir=${hydra.job.override_dirname}",
        "hydra/job_logging=disabled",
        "hydra/hydra_logging=disabled",
    ]


def run(domain: str, recipe: Any, out: Path, initial: Path | None) -> Any:
    """Train one recipe in this process."""
    from core.run.memory import divided, divisors
    from core.run.train import train

    make = locate(f"apps.{domain}.task:make")
    return train(
        make(recipe),
        app=domain,
        config=dataclasses.asdict(recipe),
        trainer=recipe.trainer,
        optim=recipe.optim,
        logger=recipe.logger,
        out=out,
        initial=initial,
        defaults=dataclasses.asdict(type(recipe)()),
        smaller={parts: partial(make, divided(recipe, parts)) for parts in divisors(recipe)},
    )
