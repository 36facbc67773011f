"""From the toy's recipe to its task."""

from benchmarks.resume import Toy
from core.errors import UsageError


class Diverging(Toy):
    """A task whose loss is not a number at the third step."""

    def loss(self, module, batch, step):
        """Return the loss of the toy, spoilt at step 2."""
        loss, figures = super().loss(module, batch, step)
        return (loss * float("nan") if step == 2 else loss), figures


def make(recipe):
    """Return the task of a recipe."""
    if recipe.data.name != "sines":
        raise UsageError("no such data", field="data.name", value=recipe.data.name, choices=["sines"])
    kind = Diverging if recipe.model.diverge else Toy
    return kind(seed=recipe.seed, batch=recipe.data.batch, dropout=recipe.model.dropout)
