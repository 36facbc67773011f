"""Music that starts at once and goes on: a session that makes block after block and gives sound in any portions.

    block n:  controls -> K steps of the solver on its frames -> samples of the player -> heard; then remembered

Blocks come from `core.blocks.vector_blocks`, their noise is addressed by (seed, block, step), and codec and context
keep their states, so neighbouring blocks are parts of one computation: nothing is faded into anything, and any
partition of `read` calls gives the same samples. What is asked takes effect with the next block.

**Deadline.** A block must be made in the time that it lasts. When the last one took more than `risk` of that, the next
takes half the steps (never under `least`); when there is room, twice as many again, up to those asked for. The change
is counted, and so is every block that came too late.

**Playing along.** What a musician plays is pushed in as it is heard; its features, averaged over the time of a block,
are asked of the next block: the answer is one block late, the generative delay, which for scores is whole beats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.music import controls
from apps.music.attack import attacks, hear
from apps.music.follow import follow
from apps.music.roll import RollCodec, RollPlayer
from apps.music.synth import RATE
from core.blocks import vector_blocks
from core.errors import UsageError
from core.nn.flow_context import FlowContext
from core.noise import Stream

if TYPE_CHECKING:
    from apps.music.generate import MusicModel

__all__ = ["Block", "LiveSession", "Snapshot"]

BEFORE = torch.zeros(8 * controls.HOP)
"""Samples before a block that its first rows are heard after."""


@dataclass(frozen=True, eq=False)
class Block:
    """One block of music.

    Args:
        number: its place.
        audio: its samples [m]; the first block's are fewer by the player's latency, a slower one's by what that grows.
        frames: its frames [L, dim].
        start_sample: of the whole, where `audio` begins.
        compute_ms: time that it took to make.
        deadline_ms: time that it lasts.
        steps: that were taken.
        controls: what was asked, by name.
    """

    number: int
    audio: Tensor
    frames: Tensor
    start_sample: int
    compute_ms: float
    deadline_ms: float
    steps: int
    controls: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A session's state to go back to."""

    context: FlowContext
    player: Any
    number: int
    sample: int
    steps: int
    rest: Tensor
    asked: dict[str, Tensor]
    bpm: float
    attack: Tensor | None = None


@dataclass(eq=False)
class LiveSession:
    """An endless piece.

    Args:
        model: what plays.
        seed: of all its noise.
        steps: solver steps per block.
        guidance: weight of what is asked.
        steer: weight of what is asked by ear against what the model would play (`follow.py`).
        bpm: tempo at which scores are played.
        risk: share of a block's time above which steps are saved; 0 never saves.
        least: fewest steps.
        clock: gives seconds; another one for tests.
    """

    model: MusicModel
    seed: int = 0
    steps: int = 8
    guidance: float = 1.0
    steer: float = 0.0
    bpm: float = 120.0
    risk: float = 0.0
    least: int = 1
    clock: Callable[[], float] = time.perf_counter
    asked: dict[str, Tensor] = field(default_factory=dict)
    number: int = 0
    sample: int = 0
    late: int = 0
    """Blocks that took longer than they last."""
    saved: int = 0
    """Blocks made with fewer steps than asked for."""

    def __post_init__(self) -> None:
        """Open the memory and the player.

        Raises:
            UsageError: no tempo.
        """
        self.codec = self.model.net.codec
        self.context = self.model.context(1, self.guidance)
        self.player = self.codec.player()
        if isinstance(self.player, RollPlayer):
            self.player.bpm = self.bpm = _tempo(self.bpm)
            self.ask(tempo=torch.tensor([self.tempo]))
        self.now = self.steps
        self.rest = torch.zeros(0)
        self.heard = BEFORE
        self.attack: Tensor | None = None
        self.due = 0.0

    @property
    def tempo(self) -> float:
        """The control that says the tempo."""
        return float(torch.log2(torch.tensor(self.bpm / 120)))

    @property
    def frames(self) -> int:
        """Frames in a block."""
        return self.model.net.flow.config.block

    @property
    def hop(self) -> float:
        """Samples per frame."""
        if isinstance(self.codec, RollCodec):
            return 60 / self.bpm / 4 * self.codec.ticks * RATE
        return float(self.codec.hop)

    def ask(self, **asked: Any) -> None:
        """Ask something of the next blocks, until it is changed; None leaves it to the model.

        Args:
            asked: groups of `controls.GROUPS`, numbers [width], or [L, width] frame by frame; `bpm` the tempo.

        Raises:
            UsageError: no such group, another width, no finite numbers, or no tempo.
        """
        for name, value in asked.items():
            if name == "bpm":
                self._play_at(_tempo(value))
            elif value is None:
                self.asked.pop(name, None)
            else:
                given = controls.numbers(name, value)
                controls.vector({name: given}, self.frames)  # refuses what does not fit
                self.asked[name] = given

    def _play_at(self, bpm: float) -> None:
        self.bpm = bpm
        if isinstance(self.player, RollPlayer):
            self.player.bpm = bpm
        self.asked["tempo"] = torch.tensor([self.tempo])

    def push_audio(self, audio: Tensor | np.ndarray) -> None:
        """Hear samples [m] of the musician; a block's worth is asked of the next block, of several the newest.

        Raises:
            UsageError: another shape, no numbers in [-1, 1], or some that are not finite; nothing of it is heard.
        """
        given = torch.as_tensor(audio)
        if given.ndim != 1 or not given.is_floating_point():
            hint = f"one channel of float samples, {RATE} a second"
            raise UsageError("is no sound", field="audio", value=(tuple(given.shape), str(given.dtype)), hint=hint)
        if not given.isfinite().all():
            raise UsageError("holds values that are not finite", field="audio", value=tuple(given.shape))
        self.heard = torch.cat([self.heard, given.float()])

    def _answer(self) -> None:
        """Ask what was heard during the time of a block, if there was as much; rows begin where the block does."""
        need = self.frames * self.hop
        blocks = int((len(self.heard) - len(BEFORE) - self.due + controls.HOP / 2) // need)
        if blocks < 1:
            return
        at = self.due + (blocks - 1) * need
        rows = hear(self.heard[round(at) : round(at + need) + len(BEFORE)])
        edges = torch.arange(self.frames + 1) * self.hop
        part = {k: v[len(BEFORE) // controls.HOP :] for k, v in rows.items()}
        self.attack = attacks(part.pop("rise"), edges)
        self.asked |= controls.pool(part, edges)
        self.due = at + need
        cut = int(self.due)
        self.heard, self.due = self.heard[cut:], self.due - cut

    def _beats(self) -> dict[str, Tensor]:
        """Return the phase of the beat of each frame, which follows from the block's number."""
        if not isinstance(self.codec, RollCodec):
            return {}
        start = self.number * self.frames
        phase = 2 * torch.pi * ((torch.arange(start, start + self.frames) * self.codec.ticks / 4) % 1.0)
        return {"beat": torch.stack([phase.sin(), phase.cos()], 1)}

    def __iter__(self) -> Iterator[Block]:
        """Go on for ever."""
        while True:
            yield self.block()

    @torch.inference_mode()
    def block(self) -> Block:
        """Make the next block."""
        began = self.clock()
        self._answer()
        asked = self._beats() | self.asked
        self.context.control = controls.vector(asked, self.frames)[None]
        table, stream = self.model.table(self.now), Stream.of(self.seed, 1)
        shape = (self.frames, self.codec.dim)
        settle = follow(self.codec, self.context, self.bpm, self.steer, self.model.project, self.attack)
        blocks = vector_blocks(self.context, self.context.net.process, table, stream, shape, first=self.number)
        made = settle(next(blocks))
        self.context.commit(made)
        audio = self.player.push(made[0])
        spent, lasts = 1000 * (self.clock() - began), 1000 * self.frames * self.hop / RATE
        out = Block(self.number, audio, made[0], self.sample, spent, lasts, self.now, asked)
        self.number, self.sample = self.number + 1, self.sample + len(audio)
        self._keep_time(spent, lasts)
        return out

    def _keep_time(self, spent: float, lasts: float) -> None:
        self.late += spent > lasts
        self.saved += self.now < self.steps
        if not self.risk:
            return
        if spent > self.risk * lasts:
            self.now = max(self.least, self.now // 2)
        elif spent < 0.4 * self.risk * lasts:
            self.now = min(self.steps, 2 * self.now)

    def read(self, samples: int) -> Tensor:
        """Return the next samples, exactly as many as asked for."""
        while len(self.rest) < samples:
            self.rest = torch.cat([self.rest, self.block().audio])
        out, self.rest = self.rest[:samples], self.rest[samples:]
        return out

    def listen_to(self, frames: Tensor, asked: Tensor | None = None) -> None:
        """Take what has been played before, whole blocks of frames [n L, dim], as the past; it is not played again.

        Args:
            frames: what was played.
            asked: what was asked of it, [n L, WIDTH].

        Raises:
            UsageError: no whole blocks, frames of another codec, or another number of rows of what was asked.
        """
        check_past(frames, self.frames, self.codec.dim)
        if asked is not None and len(asked) != len(frames):
            raise UsageError("needs a row for each frame of the past", field="asked", value=len(asked))
        parts = asked.split(self.frames) if asked is not None else [None] * (len(frames) // self.frames)
        for piece, control in zip(frames.split(self.frames), parts, strict=True):
            self.context.control = None if control is None else control[None]
            self.context.commit(piece[None])
            self.number += 1

    def warmup(self) -> float:
        """Make one block and forget it, so that the first one that counts is not late; return its milliseconds.

        What was heard before is still to be answered.
        """
        before, counts, heard = self.snapshot(), (self.late, self.saved), (self.heard, self.due)
        spent = self.block().compute_ms
        self.restore(before)
        (self.late, self.saved), (self.heard, self.due) = counts, heard
        return spent

    def snapshot(self) -> Snapshot:
        """Return a copy of the state; what was heard of a musician is no part of it."""
        return Snapshot(self.context.copy(), self.player.copy(), self.number, self.sample, self.now, self.rest.clone(),
                        dict(self.asked), self.bpm, self.attack)  # fmt: skip

    def restore(self, state: Snapshot) -> None:
        """Go back to a state; what follows is what followed then."""
        self.context, self.player = state.context.copy(), state.player.copy()
        self.number, self.sample, self.now = state.number, state.sample, state.steps
        self.rest, self.asked, self.attack = state.rest.clone(), dict(state.asked), state.attack
        self.bpm = state.bpm


def check_past(frames: Tensor, length: int, dim: int) -> None:
    """Refuse a past that is no finite frames [n L, dim].

    Raises:
        UsageError: it is not.
    """
    if len(frames) % length:
        raise UsageError(f"takes blocks of {length} frames", field="past", value=len(frames))
    if frames.ndim != 2 or frames.shape[1] != dim:
        raise UsageError(f"takes {dim} numbers a frame", field="past", value=tuple(frames.shape))
    if not frames.isfinite().all():
        raise UsageError("holds values that are not finite", field="past", value=tuple(frames.shape))


def _tempo(value: Any) -> float:
    """Return beats per minute; refuse what cannot be played at."""
    try:
        bpm = float(value)
    except (TypeError, ValueError, RuntimeError):
        bpm = 0.0
    if not 20 <= bpm <= 400:
        raise UsageError("is not a tempo", field="bpm", value=value, hint="20 to 400 beats per minute")
    return bpm
