"""The toy's verbs."""

from core.run.cli import Json, build, emit

app = build("toy", summary="the app of the tests")


@app.command()
def sample(model: str, n: int = 4, json: Json = False) -> None:
    """Load a model and say how large it is."""
    from core.run.checkpoint import load

    found = load(model, app="toy")
    emit({"n": n, "values": sum(v.numel() for v in found.inference.values())}, json)


@app.command()
def evaluate(model: str, json: Json = False) -> None:
    """Be stopped by the user."""
    raise KeyboardInterrupt
