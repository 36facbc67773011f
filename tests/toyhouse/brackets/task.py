"""What is learned: all balanced texts, equally likely, by the evidence bound of absorbing diffusion."""

import numpy as np
import torch
from apps.brackets.constraints import law
from apps.brackets.model import network

from core.noise import Stream
from core.objective import elbo
from core.process.categorical import Categorical
from core.run.lane import noise


class BracketTask:
    """What `core.run.train` asks of an app."""

    def __init__(self, recipe):
        self.recipe, self.shape = recipe, (recipe.batch, recipe.length)
        self.window = law(recipe, recipe.batch).window(*np.zeros((2, recipe.batch), int), recipe.length, 0)
        self.module = network

    def batch(self, step, rank, world):
        """Return texts as tokens [B, L], drawn from the law itself: all sites, with equal odds."""
        u = Stream.of(self.recipe.seed, self.shape[0]).fold(0, step, rank).uniform(self.shape[1])
        nothing, everywhere = torch.full(self.shape, -1), torch.ones(self.shape, dtype=torch.bool)
        return self.window.admit(torch.zeros(*self.shape, 4), nothing, everywhere, u)

    def loss(self, module, batch, step):
        """Return the evidence bound in nats per site, and figures."""
        net, stream = getattr(module, "module", module), noise(self.recipe.seed, len(batch)).fold(1, step)
        return elbo.count_form(net.beside(batch, self.recipe.length), Categorical.absorbing(4), batch, stream)

    def validate(self, module, step):
        """Return the loss on a batch that no step reads."""
        batch = self.batch(2**40, 0, 1).to(next(module.parameters()).device)
        return {"loss": float(self.loss(module, batch, 0)[0])}


make = BracketTask
