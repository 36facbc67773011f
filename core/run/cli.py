"""One command line for every app: `train sample evaluate check average recipes data`.

`build(domain)` returns a typer app with the verbs that need no knowledge of the domain (all but sample and evaluate).
The app's `cli.py` adds its own with typed options and imports what it needs inside the function:

    app = build("trajectory")

    @app.command()
    def sample(model: str, n: int = 8, json: Json = False) -> None:
        from apps.trajectory import verbs
        emit(verbs.sample(model, n), json)

stdout carries the result, as text or as one JSON object; stderr the progress. A `QuintetError` is one line and its
exit code; nothing but typer is imported before a verb runs.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from core.errors import QuintetError
from core.run.guard import target, writable

__all__ = ["Json", "Out", "build", "emit"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Where to write.", show_default=False, metavar="PATH", parser=target, callback=writable),
]
Words = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]... [HYDRA FLAGS]", show_default=False)]
Initial = Annotated[Path | None, typer.Option("--initial", help="Start from a checkpoint's weights (fine-tuning).")]
Shards = Annotated[
    int, typer.Option("--shards", help="Write so many files, each sample once; --out names them.", min=0)
]
Processes = Annotated[int, typer.Option("--processes", help="Share the shards among so many processes.", min=1)]
Models = Annotated[list[str], typer.Argument(metavar="MODEL MODEL... [KEY=VALUE]...", show_default=False)]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)]

ORDER = ("train", "sample", "evaluate", "check", "average", "recipes", "data")
EXAMPLES = {
    "train": "train toy trainer.steps=50 optim.lr=1e-3 --out runs/mine",
    "sample": "sample toy --seed 1 --json",
    "evaluate": "evaluate toy --json",
    "check": "check toy optim.lr=1e-3",
    "average": "average runs/mine runs/other --out runs/mean",
    "recipes": "recipes --json",
    "data": "data --json",
}
WORDS: Any = typer.BadParameter.__base__  # of typer's own copy of click, or of click: whatever is wrong with the words
FREE = {"allow_extra_args": True, "ignore_unknown_options": True}


class Verbs(TyperGroup):
    """The group of an app's verbs: shared ones first, and every user's mistake in one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the shared verbs in their order, then the domain's own."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), names.index(n)))

    def make_context(self, *words: Any, **more: Any) -> Any:
        """Read the words before the verb."""
        try:
            return super().make_context(*words, **more)
        except WORDS as error:
            raise refused(error, None) from None

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; translate failures into exit codes."""
        try:
            return super().invoke(ctx)
        except WORDS as error:
            raise refused(error, ctx) from None
        except QuintetError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except (typer.Exit, typer.Abort):  # these are RuntimeErrors too
            raise
        except (MemoryError, RuntimeError) as error:
            if not hungry(error):
                raise
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of stdout left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


def refused(error: Any, ctx: Any) -> Exception:
    """Say in one line which word is wrong; without words at all the help is the answer."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error
    place = getattr(error.ctx or ctx, "command_path", "quintet")
    print(f"{place}: {' '.join(error.format_message().split()).rstrip('.')}; see {place} --help", file=sys.stderr)
    return typer.Exit(2)


def hungry(error: Exception) -> bool:
    """Tell whether memory ran out; if so, say it in one line."""
    if not isinstance(error, MemoryError):
        from core.run.memory import scarce

        if not scarce(error):
            return False
    what = (str(error) or type(error).__name__).splitlines()[0]
    print(f"out of memory ({what}); ask for less at a time", file=sys.stderr)
    return True


def exemplified(domain: str, examples: Mapping[str, str]) -> type[Verbs]:
    """Return the group whose verbs end their `--help` with an example: a command without `quintet <domain>`."""

    place = f"quintet {domain}".strip()

    class Exemplified(Verbs):
        """The verbs of one app."""

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """Return a verb with its example."""
            verb = super().get_command(ctx, cmd_name)
            if verb is not None and cmd_name in examples:
                verb.epilog = f"Example: {place} {examples[cmd_name]}"
            return verb

    return Exemplified


def finite(value: Any) -> Any:
    """Return a value with null for each number that JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def emit(result: Mapping[str, Any], as_json: bool = False) -> None:
    """Print a result on stdout: one JSON object, or a line for each entry."""
    import json

    if as_json:
        print(json.dumps(finite(result), default=str, allow_nan=False))
        return
    width = max((len(key) for key in result), default=0)
    for key, value in result.items():
        print(f"{key:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")


class App(typer.Typer):
    """An app's command line; where the app has a `stream.py`, its verb `sample` takes --shards and --processes."""

    def __init__(self, domain: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.domain = domain

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        """Register a verb."""
        register = super().command(name, **settings)

        def keep(function: Callable[..., Any]) -> Callable[..., Any]:
            sample = (name or function.__name__) == "sample"
            register(sharded(self.domain, function) if sample and streams(self.domain) else function)
            return function

        return keep


def streams(domain: str) -> bool:
    """Whether an app can write its samples in shards."""
    import importlib.util

    return importlib.util.find_spec(f"apps.{domain}.stream") is not None


def sharded(domain: str, sample: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb `sample` with two more options."""
    import functools
    import inspect

    @functools.wraps(sample)
    def work(**asked: Any) -> None:
        shards, processes = asked.pop("shards"), asked.pop("processes")
        if not shards and processes == 1:
            return sample(**asked)
        from core.run.shards import write

        json, out = asked.pop("json"), asked.pop("out")
        result = write(domain, asked, out, shards=shards or processes, processes=processes)
        return emit(result, json) if os.environ.get("LOCAL_RANK", "0") == "0" else None

    kind = inspect.Parameter.KEYWORD_ONLY
    more = {"shards": (Shards, 0), "processes": (Processes, 1)}
    given = [p.replace(kind=kind) for p in inspect.signature(sample).parameters.values()]
    given += [inspect.Parameter(k, kind, default=v, annotation=a) for k, (a, v) in more.items()]
    work.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    work.__annotations__ = {**sample.__annotations__, **{k: a for k, (a, _) in more.items()}}
    return work


def build(
    domain: str, *, schema: str | None = None, summary: str = "", examples: Mapping[str, str] | None = None
) -> typer.Typer:
    """Return the command line of an app with the shared verbs.

    Args:
        domain: the name of the app's folder.
        schema: dotted path of the recipe's dataclass; by default `apps.<domain>.model:Recipe`.
        summary: the line that `--help` shows.
        examples: for each verb of the domain's own, and for shared ones where another is better, a command.
    """
    kind = schema or f"apps.{domain}.model:Recipe"
    app = App(
        domain,
        cls=exemplified(domain, {**EXAMPLES, **(examples or {})}),
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich costs a quarter of a second at each --help
    )

    @app.command(context_settings=FREE)
    def train(words: Words = None, out: Out = None, initial: Initial = None, json: Json = False) -> None:
        """Train a recipe (default: toy), or go on where it stopped.

        KEY=VALUE changes a setting, e.g. optim.lr=1e-3 or trainer=gpu. Hydra's flags work as in Hydra:
        -m sweeps over optim.lr=1e-3,3e-4, --cfg job prints the recipe.
        """
        from core.run.launch import launch, read

        order = read(words or [])
        results = launch(domain, order, schema=kind, out=out, initial=initial)
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        for result in results:
            head = {"model": str(result.folder / "model"), "step": result.step, "stopped": result.stopped}
            emit({**head, "seconds": round(result.seconds, 1), **result.metrics}, json)

    @app.command(context_settings=FREE)
    def check(words: Words = None, json: Json = False) -> None:
        """Try a recipe without training (data, one batch, one gradient), or verify a checkpoint folder."""
        from core.run.preflight import preflight

        emit(preflight(domain, kind, words or []), json)

    @app.command()
    def average(models: Models, out: Out = None, json: Json = False) -> None:
        """Write the mean of the weights of models that went on from the same one, with the recipe of the first.

        KEY=VALUE changes a setting of that recipe, e.g. how the mean is sampled.
        """
        from core.run.models import average as mean

        changes = [w for w in models if "=" in w and not Path(w).exists()]
        emit(mean([w for w in models if w not in changes], domain, out, changes, kind), json)

    @app.command()
    def recipes(json: Json = False) -> None:
        """List what this app can train."""
        from core.run.config import summaries

        emit(summaries(domain), json)

    @app.command()
    def data(names: Names = None, out: Out = None, json: Json = False) -> None:
        """List the public data sets of this app, or fetch and verify those named."""
        from core.run import fetch

        emit(fetch.obtain(names, domain, out) if names else fetch.catalogue(domain), json)

    return app
