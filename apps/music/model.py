"""The network of the music app and the schema of its recipes.

A `MusicNet` is a codec (what is heard <-> frames of a few numbers) and a block-wise flow over its frames. Three tasks
train it in turn: `codec` (the decoder of the mel codec), `flow` (the next block, given the past and what is asked) and
`arc` (few steps, and no drift: `core/finetune/arc.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from apps.music.codec import MelCodec
from apps.music.controls import WIDTH
from apps.music.data import KINDS
from apps.music.foreign import KINDS as FOREIGN
from apps.music.foreign import ForeignCodec
from apps.music.roll import RollCodec
from core.errors import UsageError
from core.finetune.arc import Critic
from core.nn.block_flow import MODES, BlockFlow, BlockFlowConfig
from core.nn.transformer import TransformerConfig
from core.objective.flow import flow_loss, logit_normal
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, setting
from core.run.lane import noise
from core.solvers.presets import SOLVERS

__all__ = ["ArcConfig", "CodecConfig", "DataConfig", "ModelConfig", "MusicNet", "Recipe", "SampleConfig", "make_codec"]


@dataclass
class CodecConfig:
    """Frames.

    `roll`: scores, `ticks` sixteenths a frame, with or without drums, pitches low ... high - 1. `mel`: sound, 15.6
    frames a second, a decoder of `width` channels. `dim` numbers a frame, all of unit variance where `whiten`, else of
    the size that they have in the roll, so that a model spends itself on what is heard. `encodec` and `dac`:
    codecs of others at 25 frames a second, their packages installed and their `weights` fetched by you.
    """

    kind: str = setting("roll", choices=("roll", "mel", *FOREIGN))
    dim: int = setting(48, low=2)
    ticks: int = setting(4, low=1)
    drums: bool = setting(True)
    low: int = setting(36, low=0, high=128)
    high: int = setting(84, low=0, high=128)
    width: int = setting(256, low=8)
    whiten: bool = setting(True)
    weights: str = setting("")


@dataclass
class ModelConfig:
    """The flow: the trunk's shape, frames in a block, blocks that it remembers, and what clean frames see.

    Targets are corrupted at times whose logits have mean `noise` and deviation `spread`. What concerns a whole block,
    its key and how busy it is, is decided where noise is so strong that 0 and 1 hardly train it (t > 0.9: 1 in 70).
    """

    dim: int = setting(192, low=8)
    depth: int = setting(6, low=1)
    heads: int = setting(4, low=1)
    mlp: int = setting(4, low=1)
    dropout: float = setting(0.0, low=0, high=0.9)
    block: int = setting(8, low=1)
    window: int = setting(4, low=1)
    mode: str = setting("diagonal", choices=MODES)
    noise: float = setting(0.0)
    spread: float = setting(1.0, low=0)


@dataclass
class DataConfig:
    """What is learned from.

    `kind` is one of tunes (embedded), chorales, groove, recordings, loops, folder (any recordings below `root`, read
    where they are needed); `root` the folder of the real data; `count` how
    many arrangements of the tunes. Scores are moved by up to `transpose` semitones; with `home` only where something
    is asked, so that what is played without a wish keeps to the keys of the data. `each` and `everything` are the
    probabilities that one group of controls, and all of them, are not asked for in a block, `free` the share of
    sequences that are asked nothing but, half of them, a beat; `heard` renders scores, so that they can be asked for by
    ear. Sequences are `batch` at a time.
    """

    kind: str = setting("tunes", choices=KINDS)
    root: str = setting("../shared/data/music")
    count: int = setting(84, low=7)
    transpose: int = setting(0, low=0, high=11)
    batch: int = setting(32, low=1)
    each: float = setting(0.3, low=0, high=1)
    everything: float = setting(0.2, low=0, high=1)
    free: float = setting(0.3, low=0, high=1)
    home: bool = setting(False)
    heard: bool = setting(False)


@dataclass
class SampleConfig:
    """Defaults of playing: steps per block, the solver, the weights of guidance (1 obeys) and of steering (0: none).

    Of scores, what is predicted of how busy a block is counts `stretch` times at times down to `since`.
    """

    steps: int = setting(8, low=1)
    solver: str = setting("adams", choices=tuple(SOLVERS))
    guidance: float = setting(1.0, low=0)
    steer: float = setting(0.0, low=0)
    stretch: float = setting(1.0, low=0)
    since: float = setting(0.25, low=0, high=1)


@dataclass
class ArcConfig:
    """Adversarial post-training: blocks rolled out, least and most steps, how many of them learn, and the critic.

    Blocks are made as they are played, by `sample.solver`; gradients pass through the last `through` steps of each. A
    share `alone` of the rows goes on from the model's own music, unasked: `chains` of it are kept, `burn` blocks old on
    average, and now and then all rows begin from nothing, so that endless play is what is judged. The critic reads
    `depth` layers, sees log signal-to-noise ratios (halved) from `low` to `high`, learns `pace` times as fast as the
    generator, alone for `lead` steps, and has a `contrast` of conditions. `keep` weighs the flow's own loss on real
    windows, which holds the generator near the flow that it came from; `slow` weighs how far busyness and harmony of
    neighbouring blocks are from the data's (`slow.py`; scores only), of which key, register and voices count `home`.
    """

    blocks: int = setting(4, low=1)
    least: int = setting(4, low=1)
    most: int = setting(4, low=1)
    through: int = setting(4, low=1)
    depth: int = setting(4, low=1)
    width: int = setting(64, low=4)
    low: float = setting(-2.0)
    high: float = setting(2.0)
    pace: float = setting(10.0, low=0)
    contrast: float = setting(1.0, low=0)
    keep: float = setting(1.0, low=0)
    alone: float = setting(0.6, low=0, high=1)
    burn: int = setting(24, low=0)
    chains: int = setting(64, low=1)
    lead: int = setting(0, low=0)
    slow: float = setting(0.0, low=0)
    home: float = setting(0.25, low=0)


@dataclass
class Recipe:
    """A training run: everything that `quintet music train` can be told.

    `task` is what is trained; `start` a run or checkpoint to take finished parts from: the codec, and the flow where
    one was trained.
    """

    seed: int = setting(0, low=0)
    task: str = setting("flow", choices=("codec", "flow", "arc"))
    start: str = setting("")
    codec: CodecConfig = field(default_factory=CodecConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    arc: ArcConfig = field(default_factory=ArcConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


AnyCodec = RollCodec | MelCodec | ForeignCodec


def make_codec(config: CodecConfig) -> AnyCodec:
    """Build the codec of a recipe."""
    if config.kind == "mel":
        return MelCodec(config.dim, config.width)
    if config.kind != "roll":
        return ForeignCodec(config.kind, config.dim, config.weights)
    if config.high < config.low:
        hint = f"codec.low is {config.low}; where they are equal there are no pitches"
        raise UsageError("is below the lowest pitch", field="codec.high", value=config.high, hint=hint)
    return RollCodec(config.dim, config.ticks, config.drums, config.low, config.high, whiten=config.whiten)


class MusicNet(nn.Module):
    """Codec and flow, and the critic while there is one.

    Args:
        recipe: their shapes.
    """

    chains: Tensor
    """The generator's own music while there is a critic, [chains, W L, dim]."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        m = recipe.model
        trunk = TransformerConfig(m.dim, m.depth, m.heads, m.mlp, m.dropout, time=True)
        self.codec = make_codec(recipe.codec)
        self.flow = BlockFlow(BlockFlowConfig(recipe.codec.dim, WIDTH, m.block, m.window, m.mode, trunk))
        self.critic: Critic | None = None
        if recipe.task == "arc":
            self.critic = Critic(self.flow, min(recipe.arc.depth, m.depth), recipe.arc.width, m.window * m.block)
            self.register_buffer("chains", torch.zeros(recipe.arc.chains, m.window * m.block, recipe.codec.dim))
        self.times = logit_normal(m.noise, m.spread)
        trained = {"codec": self.codec, "flow": self.flow, "arc": self}[recipe.task]
        self.requires_grad_(False)
        trained.requires_grad_(True)
        if self.critic is not None:
            for part in (self.codec, *self.critic.unread):
                part.requires_grad_(False)

    def forward(self, x: Tensor, control: Tensor | None, seed: int, *path: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the flow-matching loss of frames [B, N L, dim] under controls [B, N L, WIDTH], with its metrics.

        Every target block has its own time, logit-normal; the noise is that of the seed at `path`.
        """
        flow, length = self.flow, self.flow.config.block
        stream = noise(seed, len(x)).fold(*path).to(x.device)
        denoiser, target = flow.trainer(x, control)
        u = stream.fold(7).uniform(target.shape[1] // length)
        t = self.times(u).clamp(1e-4, 1).repeat_interleave(length, 1).to(x.device)
        return flow_loss(denoiser, flow.process, target, stream, kind="velocity", times=t)

    def around(self, codec: nn.Module) -> MusicNet:
        """Return the network with another codec; all other parts are shared."""
        out = copy.copy(self)
        out._modules = dict(self._modules)
        out.codec = codec  # type: ignore[assignment]
        return out

    def extra_repr(self) -> str:
        """Tell how large it is."""
        return f"{sum(p.numel() for p in self.flow.parameters()) / 1e6:.1f} M parameters in the flow"


def check_shapes(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str, settings: str) -> None:
    """Refuse to start from a run whose parameters `theirs` lack some of `own`, or have other shapes.

    Raises:
        UsageError: they do.
    """
    for name, value in own.items():
        known = theirs.get(name)
        if known is None or known.shape != value.shape:
            had = "none" if known is None else f"{tuple(known.shape)}, not {tuple(value.shape)}"
            hint = f"set {settings} as that run did"
            raise UsageError(f"is a run with another {what} ({name}: {had})", field="start", hint=hint)


def take(module: nn.Module, state: Mapping[str, Tensor], part: str) -> None:
    """Copy the parameters of a part, `codec` or `flow`, from the state of another run.

    Raises:
        UsageError: that run's are others.
    """
    own: dict[str, Tensor] = module.state_dict()
    found = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
    check_shapes(own, found, part, "codec" if part == "codec" else "codec and model")
    module.load_state_dict({k: found[k] for k in own})


def adopt(net: MusicNet, state: dict[str, Tensor], parts: tuple[str, ...]) -> None:
    """Copy the parameters of some parts (`codec`, `flow`) from the state of another run."""
    for part in parts:
        take(getattr(net, part), state, part)
    if net.critic is not None and "flow" in parts:
        with torch.no_grad():
            theirs = dict(net.flow.named_parameters())
            for name, p in net.critic.body.named_parameters():
                if name in theirs and theirs[name].shape == p.shape:
                    p.copy_(theirs[name])
