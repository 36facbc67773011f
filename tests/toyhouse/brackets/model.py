"""The settings of a recipe, the network that they mean, and the sampler around it."""

from dataclasses import dataclass, field

import torch
from apps.brackets.constraints import law
from apps.brackets.tokenizer import decode
from omegaconf import OmegaConf

from core.blocks import generate
from core.nn.tokens import TokenConfig, TokenNet
from core.nn.transformer import TransformerConfig
from core.noise import Stream
from core.plan import uniform_plan
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, instance, setting
from core.run.models import fill, find
from core.solvers.tokens import Ancestral


@dataclass
class Recipe:
    """All that `quintet brackets train` can be told."""

    seed: int = setting(0, low=0)
    length: int = setting(12, low=2)
    depth: int = setting(3, low=1, high=6)
    batch: int = setting(32, low=1)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class BracketModel:
    """A trained network; text i depends on the seed and its number alone, not on its batch."""

    net: TokenNet
    recipe: Recipe

    @torch.no_grad()
    def sample(self, n, *, rules=(), steps=6, seed=0, index=None):
        """Return n texts that are balanced and obey the rules."""
        length = self.recipe.length
        stream = Stream(seed, torch.arange(n) if index is None else torch.as_tensor(index))
        rest = {"constraint": law(self.recipe, n, rules), "length": length, "block": length, "stream": stream}
        return decode(generate(self.net.eval(), uniform_plan(steps), Ancestral(), **rest))


def network():
    """Return the core's transformer for four letters, with fresh weights."""
    return TokenNet(TokenConfig(4, TransformerConfig(dim=32, depth=2, heads=4)))


def restore(name):
    """Return the model of a checkpoint."""
    saved = find(name, "brackets")
    net = fill(network(), saved.inference, saved.path)
    return BracketModel(net, instance(OmegaConf.create(saved.config), Recipe))
