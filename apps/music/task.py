"""The training tasks: which frames, at which step, and what is to be minimised.

A batch is a pure function of (seed, step, rank). Where clean frames do not depend on the target every block of a window
is one, so short pasts are seen too; elsewhere the number of past blocks is drawn, half the time the whole window.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.music import controls, data
from apps.music.codec import MelCodec
from apps.music.corpus import Corpus, corpus, fit
from apps.music.folder import Library, StreamCorpus
from apps.music.model import MusicNet, Recipe, adopt, make_codec, take
from apps.music.spectral import HOP
from apps.music.synth import RATE
from apps.music.vocoder import spectral_loss
from core.errors import DataError, UsageError
from core.nn.flow_context import FlowContext
from core.noise import Stream
from core.run import checkpoint

__all__ = ["CodecTask", "FlowTask", "make"]

SEGMENT = 64
"""Hops in a training segment of the codec, one second."""


def _started(recipe: Recipe) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights that the recipe starts from, {} for none, and which parts of them were trained."""
    if not recipe.start:
        return {}, ()
    saved = checkpoint.load(Path(recipe.start), app="music")
    return saved.inference, ("codec",) if saved.config["task"] == "codec" else ("codec", "flow")


@dataclass(eq=False)
class FlowTask:
    """Flow matching of the next block.

    Args:
        recipe: the run.
    """

    recipe: Recipe

    def __post_init__(self) -> None:
        """Fit or adopt the codec and cut the data into frames."""
        self.state, self.parts = _started(self.recipe)
        self.codec = make_codec(self.recipe.codec)
        if self.state:
            take(self.codec, self.state, "codec")
        else:
            fit(self.codec, self.recipe)
        self.data: Corpus | StreamCorpus = corpus(self.codec, self.recipe, "train")
        self.held: Corpus | StreamCorpus = corpus(self.codec, self.recipe, "valid")

    def module(self) -> MusicNet:
        """Build the network around the codec, going on from the flow of `start` where there is one."""
        net = MusicNet(self.recipe)
        net.codec.load_state_dict(self.codec.state_dict())
        if "flow" in self.parts:
            adopt(net, self.state, ("flow",))
        return net

    def _blocks(self, rng: np.random.Generator) -> int:
        m = self.recipe.model
        if m.mode in {"diagonal", "block-causal"} or rng.random() < 0.5:
            return m.window + 1
        return 1 + int(rng.integers(m.window + 1))

    def batch(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """Return frames and controls of one step, some of what is asked dropped or smoothed."""
        r = self.recipe
        rng = np.random.default_rng([r.seed, step, rank])
        x, control = self._cut(self._blocks(rng) * r.model.block, rng)
        return {"x": x, "control": control}

    def _cut(self, length: int, rng: np.random.Generator, smoothed: bool = True) -> tuple[Tensor, Tensor]:
        """Return frames and what is asked of them; at home, where nothing is asked nothing is moved."""
        d, block = self.recipe.data, self.recipe.model.block
        keep = controls.drop(torch.ones(d.batch, length, controls.WIDTH), rng, d.each, d.everything, block, d.free)
        wishes = keep[..., controls.FLAGS :].any(1)[:, [n not in {"tempo", "beat"} for n in controls.GROUPS]].any(1)
        bound = np.where(wishes.numpy() | (not d.home), d.transpose, 0)
        x, control = self.data.cut(d.batch, length, rng, bound)
        return x, keep * (controls.smooth(control, rng) if smoothed else control)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Any]]:
        """Return the flow-matching loss."""
        return module(batch["x"], batch["control"], self.recipe.seed, step)

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Return the loss on held-out windows, and with the past of another piece: a past that is used matters."""
        r = self.recipe
        net: MusicNet = getattr(module, "module", module)  # type: ignore[assignment]
        device = next(net.parameters()).device
        length = (r.model.window + 1) * r.model.block
        totals = {"loss": 0.0, "shuffled": 0.0}
        for part in range(2):
            rng = np.random.default_rng([r.seed, part, 99])
            x, control = (v.to(device) for v in self.held.cut(64, length, rng))
            stream = Stream.of(1, len(x)).fold(part).to(device)
            for name, past in (("loss", x), ("shuffled", x.roll(1, 0))):
                totals[name] += self._last(net, past, x, control, stream) / 2
        return totals

    def _last(self, net: MusicNet, past: Tensor, x: Tensor, control: Tensor, stream: Stream) -> float:
        """Return the loss of the last block of `x` after the blocks of `past`, averaged over four times."""
        length = self.recipe.model.block
        context, flow = FlowContext(net.flow, len(x)), net.flow
        blank = torch.zeros_like(control[:, :length])
        for block in past[:, :-length].split(length, 1):
            context.control = blank
            context.commit(block)
        context.control = blank
        target, total = x[:, -length:], 0.0
        for k in range(4):
            t = torch.tensor((k + 0.5) / 4, dtype=torch.float64)
            noise = stream.fold(k).normal(*target.shape[1:]).to(target)
            x_t = flow.process.corrupt(target, t, noise)
            weight = float(flow.process.gain("velocity", t)) ** 2
            total += weight * float((context.predict(x_t, t).mean - target).detach().square().mean()) / 4
        return total


@dataclass(eq=False)
class CodecTask:
    """The decoder of the mel codec: spectra of one-second segments."""

    recipe: Recipe

    def __post_init__(self) -> None:
        """Fit the components."""
        self.codec = make_codec(self.recipe.codec)
        if not isinstance(self.codec, MelCodec):
            raise UsageError("only mel has a decoder to train", field="codec.kind", value=self.recipe.codec.kind)
        config = self.recipe.data
        self.train: list[Tensor] | Library = []
        if config.kind == "folder":
            self.train = Library(config.root)
            self.held = Library(config.root, "valid").some(4, 10 * RATE)
        else:
            self.train, self.held = (data.sounds(config.kind, config.root, part) for part in ("train", "valid"))
        fit(self.codec, self.recipe)

    def module(self) -> MusicNet:
        """Build the network around the codec."""
        net = MusicNet(self.recipe)
        net.codec.pca.load_state_dict(self.codec.pca.state_dict())
        return net

    def batch(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """Return segments of the training parts, each second equally likely."""
        rng, count = np.random.default_rng([self.recipe.seed, step, rank]), self.recipe.data.batch
        if isinstance(self.train, Library):
            sound = torch.stack([self.train.window(rng, SEGMENT * HOP) for _ in range(count)])
        else:
            sound = torch.stack(_segments(self.train, count, rng))
        return {"sound": sound, "z": torch.stack([self.codec.encode(s) for s in sound])}  # type: ignore[arg-type]

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Any]]:
        """Return the spectral distance; the first tenth, which has no past, does not count."""
        net: MusicNet = getattr(module, "module", module)  # type: ignore[assignment]
        made = net.codec.vocoder(net.codec.mels(batch["z"]))  # type: ignore[union-attr, operator]
        skip = SEGMENT * HOP // 10
        return spectral_loss(made[:, skip:], batch["sound"][:, skip:]), {}

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Return the distance on the held-out parts."""
        net: MusicNet = getattr(module, "module", module)  # type: ignore[assignment]
        codec, losses = copy.deepcopy(net.codec).cpu(), []  # sound is judged on the host
        for audio in self.held:
            part = audio[: 20 * SEGMENT * HOP]
            made = codec.decode(codec.encode(part))[: len(part)]  # type: ignore[arg-type, operator]
            losses.append(float(spectral_loss(made[None], part[None])))
        return {"loss": sum(losses) / len(losses)}


def _segments(sounds: list[Tensor], count: int, rng: np.random.Generator) -> list[Tensor]:
    size, rows = np.array([max(0, len(a) - SEGMENT * HOP) for a in sounds]), []
    if not size.any():
        raise DataError(f"holds no recording longer than {SEGMENT * HOP / RATE:.1f} s", field="data.root")
    for k in rng.choice(len(size), count, p=size / size.sum()):
        at = int(rng.integers(size[k]))
        rows.append(sounds[k][at : at + SEGMENT * HOP])
    return rows


def make(recipe: Recipe) -> FlowTask | CodecTask:
    """Return the task of a recipe."""
    if recipe.task == "arc":
        from apps.music.forcing import ArcTask

        return ArcTask(recipe)
    return {"flow": FlowTask, "codec": CodecTask}[recipe.task](recipe)
