"""`python -m apps <domain> <verb> ...`, and the command `quintet`: imports the one app that is asked for.

`demo` is the only word that is not a domain: it runs each app's main job on its embedded data and writes one page.
"""

import importlib
import sys

from apps import DOMAINS

__all__ = ["main"]

DEMO = "each app's main job on embedded data, as one page: out/demo/index.html"


def main() -> None:
    """Dispatch to an app's command line."""
    words = sys.argv[1:]
    if not words or words[0] in {"-h", "--help"}:
        print("usage: quintet DOMAIN VERB ...   (quintet DOMAIN --help shows the verbs)\n")
        for name, line in {**DOMAINS, "demo": DEMO}.items():
            print(f"  {name:<12}{line}")
        return
    if words[0] == "--version":
        from core import __version__

        print(__version__)
        return
    from core.errors import QuintetError, UsageError

    if words[0] in DOMAINS:
        importlib.import_module(f"apps.{words[0]}.cli").app(words[1:], prog_name=f"quintet {words[0]}")
        return
    try:
        if words[0] != "demo":
            raise UsageError("no such app", field="domain", value=words[0], choices=[*DOMAINS, "demo"])
        demo()
    except QuintetError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def demo() -> None:
    """Run `apps.<domain>.verbs:demo(folder) -> list[Section]` for each app and write one page from all sections."""
    from pathlib import Path

    from core.run.report import write

    out = Path("out/demo")
    sections = []
    for domain in DOMAINS:
        folder = out / domain
        folder.mkdir(parents=True, exist_ok=True)
        sections += importlib.import_module(f"apps.{domain}.verbs").demo(folder)
    print(write(out / "index.html", "quintet", sections))


if __name__ == "__main__":
    main()
