"""The model that a user holds: sequences under rules, their likelihood, and the base that steering starts from.

    sample   the whole sequence at once (`block` None), or block after block from left to right (`core.blocks`): then a
             block sees the letters before it and nothing after; a transformer keeps its keys, so that length is cheap
    nll      evidence bounds in nats per sequence, exact at block 1
    base     network, process, plan and window of one length, for `core.finetune`

A sample is a function of (seed, index) and its request, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.bio.model import KINDS, LETTERS, Recipe, SampleConfig
from apps.bio.tokenizer import Tokenizer
from core.blocks import generate
from core.constrain.automaton import sites
from core.constrain.law import Constraint, Free, Law, Window
from core.constrain.regular import law
from core.denoiser import Prediction, subs
from core.errors import DataError, UsageError
from core.nn.hosted import hosted
from core.nn.tokens import TokenNet
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.sample import denoise
from core.solvers.tokens import SOLVERS

if TYPE_CHECKING:
    from apps.bio.records import Designs
    from core.run.checkpoint import Checkpoint

__all__ = ["Opener", "SequenceModel", "prompted", "restore", "sequence_model", "widened"]


@dataclass(eq=False)
class SequenceModel:
    """A trained masked diffusion over sequences.

    Args:
        net: (x, t) -> logits [B, S, K]; x tokens [B, S] with the mask at K, or laws [B, S, K + 1]; t [B].
        recipe: the run that trained it.
        batch: most sequences sampled together.
        name: what it was loaded as, for manifests.
    """

    net: nn.Module
    recipe: Recipe
    batch: int = 64
    name: str = ""

    def __post_init__(self) -> None:
        """Set the network to inference."""
        self.net.eval()
        self.tokenizer = Tokenizer(LETTERS[self.recipe.kind], self.recipe.model.kmer)
        self.process = Categorical.absorbing(self.tokenizer.tokens)

    @property
    def network(self) -> nn.Module:
        """Return the network."""
        return self.net

    @property
    def alphabet(self) -> str:
        """Return the letters."""
        return self.tokenizer.letters

    @property
    def device(self) -> torch.device:
        """Return where the network runs."""
        return next(self.net.parameters()).device

    @property
    def usual(self) -> int:
        """Return how many letters a sequence has where none are asked for."""
        return self.recipe.data.length

    def set(self, **changes: Any) -> SequenceModel:
        """Return the same weights with other sampling defaults (steps, block, solver, temperature); None changes none.

        Raises:
            UsageError: the solver is not known.
        """
        given = {k: v for k, v in changes.items() if v is not None}
        if given.get("solver", "ancestral") not in SOLVERS:
            raise UsageError("no such solver", field="solver", value=given["solver"], choices=SOLVERS)
        recipe = replace(self.recipe, sample=replace(self.recipe.sample, **given))
        return SequenceModel(self.net, recipe, self.batch, self.name)

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Return the posterior of every site of tokens [B, S], at the recipe's temperature."""
        logits = hosted(self.net)(x_t, t)
        return subs(logits / self.recipe.sample.temperature, x_t, self.tokenizer.tokens)

    @torch.no_grad()
    def sample(
        self, n: int, *, length: int | None = None, constraints: Sequence[Any] = (), start: str | Tensor | None = None,
        steps: int | None = None, block: int | None = None, solver: str | None = None,
        temperature: float | None = None, seed: int = 0, index: np.ndarray | None = None, reward: Any = None,
        steering: Any = None,
    ) -> Designs:  # fmt: skip
        """Draw sequences under hard rules, maybe steered to a reward.

        Args:
            n: how many.
            length: letters; by default those of `start`, or of the training.
            constraints: of `apps.bio.constraints`; they hold in every sample.
            start: a sequence with `?` at open letters, or tokens [S] with the mask there.
            steps, block, solver, temperature: other than the recipe's defaults; block 0 is the whole sequence.
            seed: all randomness.
            index: number of each sample's stream, int64 [n]; 0 ... n - 1 by default.
            reward, steering: of `core.finetune`; the hard rules hold in every steered draw.

        Raises:
            InfeasibleError: rules that no sequence obeys, before anything is sampled.
            UsageError: a block, solver or temperature for steered draws, which are ancestral and of whole sequences.
        """
        from apps.bio.records import Designs

        for name, value in {"block": block, "solver": solver, "temperature": temperature}.items():
            if reward is not None and value not in (None, getattr(SampleConfig(), name)):
                hint = "leave it out, or the reward"
                raise UsageError("is not known to steered draws", field=name, value=value, hint=hint)

        model = self.set(steps=steps, block=block, solver=solver, temperature=temperature)
        tokens = model.open_sites(length, start)
        rules = model.compiled(constraints, tokens)
        streams = np.arange(n) if index is None else np.asarray(index, np.int64)
        if reward is not None:
            found = model._steered(n, tokens, rules, reward, steering, seed, streams)
        else:
            parts = [streams[a : a + self.batch] for a in range(0, n, self.batch)]
            drawn = [model._draw(rules, tokens, seed, part) for part in parts]
            found = torch.cat(drawn) if drawn else torch.empty(0, len(tokens), dtype=torch.long)
        manifest = {"model": self.name, "seed": seed, "constraints": [repr(c) for c in constraints]}
        manifest |= vars(model.recipe.sample)
        manifest |= {"start": start} if isinstance(start, str) else {}
        manifest |= {"reward": reward.name, "steering": str(steering or "best-of-n")} if reward is not None else {}
        if (strength := getattr(self.net, "strength", None)) is not None:
            manifest["strength"] = strength
        molecule = "DNA" if self.alphabet == LETTERS["dna"] else "protein"
        return Designs.of(self.tokenizer.decode(found.numpy()), found, manifest, molecule)

    def open_sites(self, length: int | None, start: str | Tensor | None) -> Tensor:
        """Return the start tokens [S]: letters that stay, the mask elsewhere.

        Raises:
            UsageError: `start` has other letters, or another length than was asked for.
        """
        if start is None:
            letters = length or self.usual
            if letters % self.tokenizer.k:
                raise UsageError(f"must be a multiple of {self.tokenizer.k}", field="length", value=letters)
            return torch.full((letters // self.tokenizer.k,), self.tokenizer.tokens)
        try:
            tokens = torch.from_numpy(self.tokenizer.encode([start])[0]) if isinstance(start, str) else start
        except DataError as error:
            raise UsageError(f"{error.value!r} is neither ? nor one of {self.alphabet}", field="start") from None
        if length not in (None, len(tokens) * self.tokenizer.k):
            raise UsageError("differs from the length of start", field="length", value=length)
        return tokens

    def compiled(self, constraints: Sequence[Any], tokens: Tensor) -> Constraint | None:
        """Return the rules over token sequences, fixed sites included; None where there are none.

        Raises:
            InfeasibleError: no sequence obeys them.
            UsageError: rules over letters for a model of k-mers.
        """
        if not len(constraints):
            return None
        if self.tokenizer.k > 1:
            raise UsageError("rules over letters need single-letter tokens", field="constraints", hint="use kmer 1")
        from apps.bio.constraints import compile_, fix

        rules = list(constraints)
        known = (tokens < self.tokenizer.tokens).nonzero()[:, 0].tolist()
        rules += [fix(i + 1, self.alphabet[int(tokens[i])]) for i in known]
        return compile_(rules, len(tokens), self.alphabet)  # type: ignore[return-value]

    def _draw(self, rules: Constraint | None, tokens: Tensor, seed: int, streams: np.ndarray) -> Tensor:
        """Return sequences of some streams, int64 [B, S]."""
        cfg, rows = self.recipe.sample, len(streams)
        stream = Stream(seed, torch.from_numpy(streams))
        plan, solver = uniform_plan(cfg.steps), SOLVERS[cfg.solver]()
        if cfg.block:
            whole = widened(rules or prompted(tokens, self.tokenizer.tokens), rows)
            size = max(cfg.block // self.tokenizer.k, 1)
            more = {"constraint": whole, "length": len(tokens), "block": size, "stream": stream}
            return generate(Opener(self), plan, solver, **more)
        window = self.window(rules, rows, len(tokens))
        start = tokens.expand(rows, -1).clone()
        return denoise(self.predict, self.process, plan, window, solver, stream, start)

    def window(self, rules: Constraint | None, rows: int, length: int) -> Window:
        """Return what the rules admit over a whole sequence of `length` tokens, for so many rows."""
        whole = Free(rows, self.tokenizer.tokens) if rules is None else widened(rules, rows)
        return whole.window(whole.begin(), np.arange(rows), length, 0)

    def base(
        self, length: int | None = None, steps: int | None = None, constraint: Constraint | None = None,
        start: Tensor | None = None,
    ) -> Any:  # fmt: skip
        """Return the model of one length as `core.finetune` steers and tunes it (arguments as in `sample`).

        Raises:
            UsageError: its tokens have several letters, and rewards read single ones.
        """
        from core.finetune.base import Base

        if self.tokenizer.k > 1:
            raise UsageError("rewards read single letters", field="reward", value=f"kmer {self.tokenizer.k}",
                             hint="use a model of kmer 1")  # fmt: skip
        tokens = self.open_sites(length, start)
        return Base(
            network=hosted(self.net), process=self.process, plan=uniform_plan(steps or self.recipe.sample.steps),
            length=len(tokens), start=tokens, window=lambda rows: self.window(constraint, rows, len(tokens)),
        )  # fmt: skip

    def _steered(
        self, n: int, tokens: Tensor, rules: Constraint | None, reward: Any, steering: Any, seed: int,
        streams: np.ndarray,
    ) -> Tensor:  # fmt: skip
        from apps.bio.tune import straight
        from core.finetune.steer import STEERINGS

        if isinstance(steering, str) and steering not in STEERINGS:
            raise UsageError("no such steering", field="steering", value=steering, choices=STEERINGS)
        way = STEERINGS[steering or "best-of-n"]() if steering is None or isinstance(steering, str) else steering
        base = replace(self.base(None, self.recipe.sample.steps, rules, tokens), network=hosted(straight(self.net)))
        return way(base, reward, n, Stream(seed, torch.from_numpy(streams))).x

    def nll(
        self, x: Tensor, *, block: int | None = None, draws: int = 8, seed: int = 0, index: Tensor | None = None
    ) -> Tensor:
        """Return nats of each sequence, float64 [B]: an unbiased estimate of the bound, exact at block 1.

        Args:
            x: tokens [B, S].
            block: tokens per block; None for the whole sequence.
            draws: Monte Carlo draws; even numbers come in antithetic pairs.
            seed: of the masks.
            index: number of each sequence's stream, int64 [B]; without blocks, an estimate then depends on no other
                sequence. By default rows are numbered, and what is masked is stratified over them.
        """
        from apps.bio.likelihood import nll

        return nll(self, x, block=block, draws=draws, seed=seed, index=index).nats


@dataclass(eq=False)
class Opener:
    """A sequence model as a block denoiser: a transformer with its cache, any other network read afresh."""

    model: SequenceModel

    def open(self, rows: int, length: int) -> Any:
        """Return the context of `rows` empty sequences of `length` tokens."""
        if isinstance(self.model.net, TokenNet):
            return Heated(self.model.net.open(rows, length), self.model.recipe.sample.temperature)
        mask = self.model.tokenizer.tokens
        return Reader(self.model, torch.full((rows, length), mask), 0)


@dataclass(eq=False)
class Heated:
    """A context whose predictions are taken at a temperature."""

    context: Any
    temperature: float

    def __getattr__(self, name: str) -> Any:
        """Everything else is the context's."""
        return getattr(self.context, name)

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Return the prediction at the temperature."""
        found = self.context.predict(x_t, t)
        return replace(found, log_p=(found.log_p / self.temperature).log_softmax(-1))


@dataclass(eq=False)
class Reader:
    """The context of a network over whole sequences: letters so far, the mask in all that is to come.

    Args:
        model: the model.
        x: tokens [B, S].
        done: committed tokens of each row.
    """

    model: SequenceModel
    x: Tensor
    done: int

    def enter(self, window: Window, state: np.ndarray) -> None:
        """Nothing to prepare: the alphabet is global."""

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Predict the window's sites from tokens [B, L]."""
        size, whole = x_t.shape[1], self.x.clone()
        whole[:, self.done : self.done + size] = x_t
        found = self.model.predict(whole, t)
        return replace(found, log_p=found.log_p[:, self.done : self.done + size])

    def commit(self, x_0: Tensor) -> None:
        """Append the window's tokens."""
        self.x[:, self.done : self.done + x_0.shape[1]] = x_0
        self.done += x_0.shape[1]

    def select(self, rows: Tensor) -> None:
        """Keep some rows."""
        self.x = self.x[rows]


def widened(law: Constraint, rows: int) -> Constraint:
    """Return a constraint for `rows` rows: `Law`s of one row are repeated, others say it themselves (`with_rows`)."""
    if isinstance(law, Law):
        return replace(law, start=np.repeat(law.start[:1], rows), group=np.repeat(law.group[:1], rows))
    if isinstance(law, Free):
        return replace(law, rows=rows)
    return law.with_rows(rows)  # type: ignore[attr-defined]


def prompted(tokens: Tensor, k: int) -> Constraint:
    """Return the law of sequences that keep the known tokens of `tokens` [S] (mask k elsewhere), for one row."""
    if bool((tokens == k).all()):
        return Free(1, k)
    allowed = np.ones((len(tokens), k), bool)
    known = (tokens < k).numpy()
    allowed[known] = np.eye(k, dtype=bool)[tokens.numpy()[known]]
    return law(sites(allowed, k), 1, len(tokens))


def sequence_model(saved: Checkpoint, recipe: Recipe, device: str) -> SequenceModel:
    """Return the sequence model of a checkpoint.

    Raises:
        CheckpointError: its weights do not fit the recipe's network.
    """
    from apps.bio.dna.network import build
    from core.run.models import fill

    net = fill(build(recipe.model, len(LETTERS[recipe.kind])), saved.inference, saved.path)
    return SequenceModel(net.to(device), recipe)


def restore(name: str | Path, device: str = "cpu") -> Any:
    """Return the model of a checkpoint (see `apps.bio.load`)."""
    from omegaconf import OmegaConf

    from core.run.config import instance, locate
    from core.run.models import find

    saved = find(name, "bio")
    others = set(KINDS) - {saved.config.get("kind")}  # settings of other molecules say nothing about this one
    recipe = instance(OmegaConf.create({k: v for k, v in saved.config.items() if k not in others}), Recipe)
    made = sequence_model if recipe.kind == "dna" else locate(f"{KINDS[recipe.kind]}.generate:restored")
    model = made(saved, recipe, device)
    model.name = str(name)
    return model
