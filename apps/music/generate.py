"""The model that a user holds: music by the piece or without end.

from apps import music
model = music.load("toy")
model.sample(n=4, seconds=20, seed=0).write("out")
for block in model.live(bpm=110): ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.music import audio, controls
from apps.music.constraints import Rule, columns, project
from apps.music.follow import follow
from apps.music.live import LiveSession, check_past
from apps.music.model import MusicNet, Recipe
from apps.music.roll import TICKS, RollCodec
from apps.music.score import Score, write_midi
from apps.music.slow import stretched
from apps.music.stereo import panned
from apps.music.synth import RATE
from core.blocks import vector_blocks
from core.errors import UsageError
from core.nn.flow_context import FlowContext
from core.noise import Stream
from core.plan import Table
from core.solvers import grid
from core.solvers.presets import solver

__all__ = ["Music", "MusicModel", "restore"]


@dataclass(frozen=True, eq=False)
class Music:
    """Pieces that a model made.

    Args:
        frames: [n, F, dim].
        model: what made them.
        bpm: tempo of scores.
    """

    frames: Tensor
    model: MusicModel
    bpm: float = 120.0

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.frames)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the sound of each piece, samples [m]."""
        return (self.sound(k) for k in range(len(self)))

    def sound(self, k: int) -> Tensor:
        """Return the samples [m] of piece k."""
        player = self.model.net.codec.player()
        if isinstance(self.model.net.codec, RollCodec):
            player.bpm = self.bpm  # type: ignore[union-attr]
        return torch.cat([player.push(self.frames[k]), player.flush()])

    def stereo(self, k: int) -> Tensor:
        """Return the samples [m, 2] of piece k, as many as of `sound`; notes and drums have their places (`stereo.py`).

        Raises:
            UsageError: the codec knows no notes.
        """
        score = self.score(k)
        return audio.ended(panned(score, score.beats * 60 / score.bpm))

    def score(self, k: int) -> Score:
        """Return the score of piece k.

        Raises:
            UsageError: the codec knows no notes.
        """
        codec = self.model.net.codec
        if not isinstance(codec, RollCodec):
            raise UsageError("frames of sound have no score", field="codec.kind", value="mel")
        return codec.score(self.frames[k], self.bpm)

    def write(self, path: Path | str, rate: int = RATE, stereo: bool = False) -> list[Path]:
        """Write each piece: FILE.wav, .flac, .ogg or .mid; several get a number.

        Args:
            path: FILE.
            rate: samples per second.
            stereo: two channels, which the notes of scores have.

        Raises:
            UsageError: no such format, stereo of a codec that knows no notes, or a file that cannot be written.
        """
        path, out = Path(path), []
        for k in range(len(self)):
            target = path if len(self) == 1 else path.with_name(f"{path.stem}-{k:03d}{path.suffix}")
            if target.suffix.lower() in {".mid", ".midi"}:
                write_midi(self.score(k), target)
            else:
                audio.write(target, self.stereo(k) if stereo else self.sound(k), rate)
            out.append(target)
        return out


@dataclass(eq=False)
class MusicModel:
    """A trained model.

    Args:
        net: codec and flow.
        recipe: the run that trained it (defaults of playing).
    """

    net: MusicNet
    recipe: Recipe

    def __post_init__(self) -> None:
        """Prepare to play only."""
        self.net.eval().requires_grad_(False)
        self._tables: dict[int, Table] = {}
        self.project: Callable[[Tensor], Tensor] | None = None

    def set(self, **changes: Any) -> MusicModel:
        """Return the model with other defaults of playing (steps, solver, guidance)."""
        out = MusicModel(self.net, replace(self.recipe, sample=replace(self.recipe.sample, **changes)))
        out.project = self.project
        return out

    def obeying(self, *rules: Rule) -> MusicModel:
        """Return the model under rules that all its music keeps, beside those that it keeps already.

        Raises:
            InfeasibleError: they leave nothing to play.
            UsageError: the codec knows no notes.
        """
        codec = self.net.codec
        if not isinstance(codec, RollCodec):
            raise UsageError("rules are for scores", field="constraints", value="mel")
        quiet = columns(codec, rules)
        own = copy.copy(codec)
        own.silent = quiet
        out = MusicModel(self.net.around(own), self.recipe)
        out.project = partial(project, codec, quiet)
        return out

    def table(self, steps: int) -> Table:
        """Return the solver's table of so many steps."""
        if steps not in self._tables:
            process = self.net.flow.process
            times = grid.angle(process, steps)
            self._tables[steps] = solver(self.recipe.sample.solver, process, times)
        return self._tables[steps]

    def context(self, rows: int, guidance: float) -> FlowContext:
        """Return an empty memory of so many streams."""
        cfg = self.recipe.sample
        stretch = stretched(self.net.codec, self.net.flow.config.block, cfg.stretch, cfg.since)
        return FlowContext(self.net.flow, rows, guidance, project=self.project, stretch=stretch)

    def frames_of(self, seconds: float, bpm: float) -> int:
        """Return the frames, whole blocks, that last at least so long."""
        codec, block = self.net.codec, self.net.flow.config.block
        rate = bpm / 60 * 4 / codec.ticks if isinstance(codec, RollCodec) else codec.frame_rate
        return max(1, -(-int(seconds * rate + 0.999) // block)) * block

    @torch.inference_mode()
    def sample(
        self, n: int = 1, *, seconds: float = 10.0, frames: int = 0, asked: Mapping[str, Tensor] | None = None,
        past: Tensor | None = None, past_control: Tensor | None = None, bpm: float = 120.0, seed: int = 0,
        index: Tensor | np.ndarray | None = None, steps: int | None = None, guidance: float | None = None,
        steer: float | None = None, constraints: Sequence[Rule] = (),
    ) -> Music:  # fmt: skip
        """Make pieces.

        Args:
            n: how many.
            seconds: how long at least; or `frames`, how many.
            asked: controls by group, [width] or [F, width]; `attack`, [F, 2 PARTS BANDS], is for steering.
            past: frames [P, dim], whole blocks, to go on from; they are not returned.
            past_control: what was asked of them, [P, WIDTH].
            bpm: tempo of scores.
            seed: of all noise.
            index: stream numbers [n]: piece i is a function of (seed, index[i]), whatever the batch.
            steps, guidance, steer: other than the recipe's.
            constraints: rules that every piece keeps (`constraints.py`).

        Raises:
            InfeasibleError: the rules leave nothing to play.
            UsageError: rules for a codec that knows no notes, or something that cannot be played.
        """
        if constraints:
            return self.obeying(*constraints).sample(
                n, seconds=seconds, frames=frames, asked=asked, past=past, past_control=past_control, bpm=bpm,
                seed=seed, index=index, steps=steps, guidance=guidance, steer=steer,
            )  # fmt: skip
        flow, cfg = self.net.flow, self.recipe.sample
        samples = torch.arange(n) if index is None else torch.as_tensor(index)
        self._playable(len(samples), bpm, frames, seconds, past, past_control)
        length, total = flow.config.block, frames or self.frames_of(seconds, bpm)
        context = self.context(len(samples), cfg.guidance if guidance is None else guidance)
        for k, block in enumerate(() if past is None or not len(past) else past.split(length)):
            context.control = None if past_control is None else self._rows(past_control[k * length :][:length], samples)
            context.commit(block.expand(len(samples), -1, -1))
        wanted = dict(asked or {})
        attack = wanted.pop("attack", None)
        told = controls.vector(self._asked(wanted, total, bpm, context.number), total)
        out, table = [], self.table(cfg.steps if steps is None else steps)
        for number in range(-(-total // length)):
            part = told[number * length : (number + 1) * length]
            context.control = self._rows(torch.nn.functional.pad(part, (0, 0, 0, length - len(part))), samples)
            rows = (number * length + torch.arange(length)).clamp(max=total - 1)
            when = None if attack is None else attack[rows]
            weight = cfg.steer if steer is None else steer
            phase = number * self._lasts(bpm) % controls.HOP
            settle = follow(self.net.codec, context, bpm, weight, self.project, when, phase)
            stream = Stream(seed, samples)
            made = settle(next(vector_blocks(context, flow.process, table, stream, (length, flow.config.latent),
                                             first=context.number)))  # fmt: skip
            context.commit(made)
            out.append(made)
        return Music(torch.cat(out, 1)[:, :total], self, bpm)

    def _playable(
        self, count: int, bpm: float, frames: int, seconds: float, past: Tensor | None, told: Tensor | None
    ) -> None:
        """Refuse what cannot be played."""
        if not count:
            raise UsageError("makes one piece at least", field="n", value=count)
        if not 0 < bpm < float("inf"):
            raise UsageError("is not a tempo", field="bpm", value=bpm, hint="beats per minute")
        if frames < 0 or not 0 <= seconds < float("inf"):
            name, value = ("frames", frames) if frames < 0 else ("seconds", seconds)
            raise UsageError("is not a length", field=name, value=value)
        known = 0 if past is None else len(past)
        if past is not None and known:
            check_past(past, self.net.flow.config.block, self.net.codec.dim)
        if told is not None and told.shape != (known, controls.WIDTH):
            hint = f"({known}, {controls.WIDTH})"
            raise UsageError("is not a row for each frame", field="past_control", value=tuple(told.shape), hint=hint)

    def _lasts(self, bpm: float) -> float:
        """Return the samples of a block."""
        codec, length = self.net.codec, self.net.flow.config.block
        return length * (60 / bpm / TICKS * codec.ticks * RATE if isinstance(codec, RollCodec) else float(codec.hop))

    def _rows(self, control: Tensor, samples: Tensor) -> Tensor:
        return control.expand(len(samples), -1, -1)

    def _asked(self, asked: dict[str, Tensor], frames: int, bpm: float, blocks: int) -> dict[str, Tensor]:
        """Return what is asked, with the beat and the tempo where frames are counted in beats."""
        codec = self.net.codec
        if not isinstance(codec, RollCodec):
            return asked
        start = blocks * self.net.flow.config.block
        phase = 2 * torch.pi * ((torch.arange(start, start + frames) * codec.ticks / 4) % 1.0)
        tempo = torch.log2(torch.tensor([bpm / 120]))
        return {"beat": torch.stack([phase.sin(), phase.cos()], 1), "tempo": tempo} | asked

    def live(self, seed: int = 0, **options: Any) -> LiveSession:
        """Return a session that goes on for ever (options of `LiveSession`)."""
        cfg = self.recipe.sample
        return LiveSession(self, seed, **{"steps": cfg.steps, "guidance": cfg.guidance, "steer": cfg.steer} | options)

    def take(self, blocks: int, seed: int = 0, **options: Any) -> Tensor:
        """Return the frames [blocks L, dim] of the beginning of a session."""
        return torch.cat([b.frames for b in islice(self.live(seed, **options), blocks)])


def restore(name: str | Path, device: str = "cpu") -> MusicModel:
    """Load a model that ships with the package, a run's folder or a checkpoint's.

    Raises:
        CheckpointError: no such model, damaged, or of another app.
    """
    from omegaconf import OmegaConf

    from core.run.config import instance
    from core.run.models import fill, find

    saved = find(name, "music")
    recipe: Recipe = instance(OmegaConf.create(saved.config), Recipe)
    net = fill(MusicNet(recipe), saved.inference, saved.path)
    net.flow.to(device)  # the codec plays on the host
    return MusicModel(net, recipe)
