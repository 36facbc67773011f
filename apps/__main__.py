"""`python -m apps <domain> <verb> ...`, and the command `quintet`: imports the one app that is asked for.

Beside the domains there are words of the house: `demo` runs each app's main job on its embedded data and writes one
page, `doctor` looks at the installation, `completion` prints what a shell needs to complete words.
"""

import importlib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from apps import DOMAINS
from core.errors import QuintetError, UsageError
from core.run.cli import Json, emit, exemplified

__all__ = ["main"]

EXAMPLES = {"demo": "demo --json", "doctor": "doctor --json", "completion": 'completion bash  (eval "$(...)")'}
OPTIONS = {"demo": ["--json", "--help"], "doctor": ["--json", "--help", "--quick"], "completion": ["bash", "zsh"]}

house = typer.Typer(
    cls=exemplified("", EXAMPLES), add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


@house.command()
def demo(json: Json = False) -> None:
    """Run each app's main job on embedded data and write one page: out/demo/index.html."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from core.run.report import Chapter, write

    out, chapters, began = Path("out/demo"), [], time.monotonic()
    look = SpinnerColumn(), TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*look, console=Console(stderr=True)) as progress:
        whole = progress.add_task("demo", total=len(DOMAINS))
        for domain, line in DOMAINS.items():
            progress.update(whole, description=f"demo: {domain}")
            folder = out / domain
            folder.mkdir(parents=True, exist_ok=True)
            chapters.append(Chapter(domain, line, importlib.import_module(f"apps.{domain}.verbs").demo(folder)))
            progress.advance(whole)
    lead = (
        "One diffusion core: each application's main job on its embedded data, made by `make demo` in "
        f"{(time.monotonic() - began) / 60:.1f} minutes on this machine. What was asked, the audit of the constraints, "
        "pictures or sound, figures beside baselines, and the commands that make it again."
    )
    page = write(out / "index.html", "quintet", chapters, lead)
    if json:
        emit({"page": str(page), "apps": list(DOMAINS)}, True)
    else:
        print(page)


@house.command()
def doctor(
    json: Json = False, quick: Annotated[bool, typer.Option("--quick", help="Leave out the self-test.")] = False
) -> None:
    """Say what is installed, which device and data are there, and test the machinery for some seconds."""
    from core.run.doctor import examine, verdict

    found = examine(DOMAINS, not quick)
    if json:
        emit(found, True)
    else:
        for key, value in found.items():
            lines = value if isinstance(value, dict) else {"": value}
            print(key if isinstance(value, dict) else f"{key:<16} {value}")
            if isinstance(value, dict):
                emit({f"  {name}": line for name, line in lines.items()})
    if wrong := verdict(found):
        raise QuintetError("; ".join(wrong), field="doctor")


@house.command()
def completion(shell: Annotated[str, typer.Argument(help="bash or zsh.")]) -> None:
    """Print what a shell reads to complete words: eval "$(quintet completion bash)"."""
    from core.run.complete import script

    print(script(shell), end="")


def overview() -> str:
    """Return what `quintet --help` says."""
    own = {
        "demo": "each app's main job on embedded data, as one page: out/demo/index.html",
        "doctor": "what is installed, which device and data are there, and a short self-test",
        "completion": 'words completed by your shell: eval "$(quintet completion bash)"',
    }
    lines = [f"  {name:<12}{line}" for name, line in {**DOMAINS, **own}.items()]
    return "usage: quintet DOMAIN VERB ...   (quintet DOMAIN --help shows the verbs)\n\n" + "\n".join(lines)


def main() -> None:
    """Dispatch to an app's command line."""
    words = sys.argv[1:]
    if not words or words[0] in {"-h", "--help"}:
        print(overview())
    elif words[0] == "--version":
        from core import __version__

        print(__version__)
    elif words[0] == "--complete" and len(words) == 3:
        from core.run.complete import complete

        print("\n".join(complete(words[2], DOMAINS, OPTIONS, words[1])))
    elif words[0] in DOMAINS:
        importlib.import_module(f"apps.{words[0]}.cli").app(words[1:], prog_name=f"quintet {words[0]}")
    elif words[0] in OPTIONS:
        house(words, prog_name="quintet")
    else:
        error = UsageError("no such app", field="domain", value=words[0], choices=[*DOMAINS, *OPTIONS])
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
