"""`quintet brackets VERB`."""

from core.run.cli import Json, build, emit

app = build("brackets", summary="brackets that always close")


@app.command()
def sample(model: str, n: int = 4, without: str = "", seed: int = 0, json: Json = False) -> None:
    """Draw texts, if you like without a word: quintet brackets sample runs/brackets/toy --without "[]"."""
    from apps.brackets import constraints, load

    rules = [constraints.without(without)] if without else []
    emit({"texts": load(model).sample(n, rules=rules, seed=seed)}, json)
