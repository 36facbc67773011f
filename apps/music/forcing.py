"""ARC-Forcing of a music model: it plays on its own music, and a critic that is shown both hears the difference.

Chains are pieces of the generator's own, a window of each. A step goes on from some of them by a few blocks, and from
real beginnings in the other rows, which are asked for something; now and then all rows begin from nothing, and what
comes of the unasked ones are the new chains. So chains are of all ages, `burn` blocks on average, and endless play is
judged at the price of a few blocks a step. Generator and critic learn from the same roll-out (`core/finetune/arc.py`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.music import controls, slow
from apps.music.generate import MusicModel
from apps.music.judge import features, real_scores, steps
from apps.music.metrics import frechet
from apps.music.model import MusicNet, adopt, check_shapes
from apps.music.roll import TICKS, RollCodec
from apps.music.task import FlowTask
from core.errors import UsageError
from core.finetune import arc
from core.nn.flow_context import FlowContext
from core.noise import Stream
from core.plan import Table
from core.process.gaussian import Gaussian
from core.run.lane import noise
from core.solvers import grid
from core.solvers.presets import solver

__all__ = ["ArcTask"]

Batch = dict[str, Tensor]
REAL = 512
"""Real windows whose slow quantities are kept."""
UNEVEN = 4.0
"""What a validation counts for the size of `uneven`, 1 being all of it, beside Frechet distances about 1."""


@dataclass(eq=False)
class ArcTask(FlowTask):
    """ARC-Forcing: generator and critic on the generator's own roll-outs."""

    def module(self) -> MusicNet:
        """Build the network with its critic, both starting from the flow, and chains that begin with real music."""
        if not self.state:
            raise UsageError("names the flow to start from", field="start", value="", hint="start=runs/music/NAME")
        r = self.recipe
        self._possible()
        net = MusicNet(r)
        adopt(net, self.state, self.parts)
        assert net.critic is not None
        for p in net.critic.parameters():
            p.pace = r.arc.pace  # type: ignore[attr-defined]
        rng = np.random.default_rng([r.seed, 5])
        net.chains.copy_(self._unasked(len(net.chains), r.model.window * r.model.block, rng)[0])
        rest = {k: v for k, v in self.state.items() if k.startswith("critic.") or k == "chains"}
        if rest:  # of a run of this task: it goes on
            own = {k: v for k, v in net.state_dict().items() if k in rest}
            check_shapes(own, rest, "critic or other chains", "arc.width, arc.depth and arc.chains")
            net.load_state_dict(rest, strict=False)
        return net

    def _possible(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UsageError: they do.
        """
        r, a = self.recipe, self.recipe.arc
        if a.least > a.most:
            hint = f"set arc.least={a.most} too"
            raise UsageError(f"is below arc.least, {a.least}", field="arc.most", value=a.most, hint=hint)
        if a.slow and not isinstance(self.codec, RollCodec):
            raise UsageError("counts notes, and sound has none", field="arc.slow", value=a.slow, hint="arc.slow=0")
        if a.slow and round(a.alone * r.data.batch) < 2:
            raise UsageError("compares at least two pieces, unasked", field="arc.alone", value=a.alone,
                             hint="raise it or data.batch, or set arc.slow=0")  # fmt: skip

    @cached_property
    def known(self) -> tuple[Tensor, Tensor]:
        """Slow quantities of real music, unasked, [n, blocks, 5] and [n, blocks, 14]."""
        assert isinstance(self.codec, RollCodec)
        r = self.recipe
        rng = np.random.default_rng([r.seed, 6])
        x, _ = self._unasked(REAL, (r.model.window + r.arc.blocks) * r.model.block, rng)
        near, home = slow.quantities(self.codec, x, r.model.block)
        return near[:, 1:], home[:, 1:]

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Return real sequences [B, F, dim], their controls, the rows that are chains [n], and whether all is new."""
        r, a = self.recipe, self.recipe.arc
        rng = np.random.default_rng([r.seed, step, rank])
        length, alone = (r.model.window + a.blocks) * r.model.block, round(a.alone * r.data.batch)
        x, control = self._cut(length, rng, smoothed=False)
        own, beat = self._unasked(alone, length, rng)
        rows = (step * alone + torch.arange(alone)) % a.chains
        return {"x": torch.cat([own, x[alone:]]), "control": torch.cat([beat, control[alone:]]), "rows": rows,
                "cold": torch.tensor(rng.random() * (a.burn + a.blocks) < a.blocks)}  # fmt: skip

    def _unasked(self, count: int, length: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return real music on the beat [count, length, dim] of which nothing is asked but tempo and beat."""
        codec, d = self.codec, self.recipe.data
        beat = max(1, TICKS // codec.ticks) if isinstance(codec, RollCodec) else 1
        x, control = self.data.cut(max(count, 1), length, rng, 0 if d.home else d.transpose, beat)
        return x[:count], control[:count] * _timed()

    def loss(self, module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Any]]:
        """Return the losses of both players, of the critic alone while it leads."""
        net: MusicNet = getattr(module, "module", module)  # type: ignore[assignment]
        r, a, real, asked = self.recipe, self.recipe.arc, batch["x"], batch["control"]
        assert net.critic is not None
        stream, learns = noise(r.seed, len(real)).fold(step).to(real.device), step >= a.lead
        with torch.set_grad_enabled(learns):
            made = self._roll(net, batch, stream.fold(0))
        window = r.model.window * r.model.block
        score = partial(net.critic, skip=0 if bool(batch["cold"]) else window)
        process, span = net.flow.process, (a.low, a.high)
        loss, found = arc.critic_loss(score, process, real, made, stream.fold(1), asked, a.contrast, span)
        figures = {f"critic_{k}": v for k, v in found.items()}
        if learns:
            with arc.frozen(net.critic):
                own, found = arc.generator_loss(score, process, real, made, stream.fold(2), asked, span)
            loss, figures = loss + own, figures | {f"generator_{k}": v for k, v in found.items()}
            if a.slow:
                uneven = self._uneven(made[: len(batch["rows"])], bool(batch["cold"]))
                loss, figures = loss + a.slow * uneven, figures | {"slow": uneven.detach()}
        if a.keep:
            part = slice(0, window + r.model.block)
            flow, _ = net(real[:, part], asked[:, part], r.seed, step, 3)
            loss, figures = loss + a.keep * flow, figures | {"flow": flow.detach()}
        return loss, figures

    def _uneven(self, made: Tensor, cold: bool) -> Tensor:
        """Return how far the slow quantities of what was made, unasked, are from real ones."""
        r = self.recipe
        first = 1 if cold else r.model.window - 1
        found = slow.quantities(self.codec, made.cpu(), r.model.block)  # type: ignore[arg-type]
        known = [v.to(found[0]) for v in self.known]
        return slow.misfit([v[:, first:] for v in found], known, r.arc.home).to(made.device)

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Return the distances to held-out music of the first and the last five of 25 blocks, and `uneven`.

        This is how much more onsets differ between neighbouring blocks, as a share; `loss` is the mean distance and,
        where `arc.slow` is, `UNEVEN` times the size of `uneven`. Scores only; sound is judged by the flow's own loss.
        """
        if not isinstance(self.codec, RollCodec):
            return super().validate(module, step)
        net: MusicNet = getattr(module, "module", module)  # type: ignore[assignment]
        with arc.frozen(net):
            host = net.around(copy.deepcopy(net.codec).cpu())  # scores are judged there
            model = MusicModel(host, self.recipe).set(steps=self.recipe.arc.most)
            pieces, frames = real_scores(model, "valid"), 25 * self.recipe.model.block
            found, real = features(model.sample(48, frames=frames, seed=1, bpm=90.0)), np.concatenate(pieces)
        scale = real.std(0).clip(1e-3)
        first, last = (frechet(found[:, part].reshape(-1, found.shape[2]) / scale, real / scale)
                       for part in (slice(0, 5), slice(-5, None)))  # fmt: skip
        uneven = steps(found) / max(steps(pieces), 1e-9) - 1
        weight = UNEVEN if self.recipe.arc.slow else 0.0
        return {"loss": (first + last) / 2 + weight * abs(uneven), "first": first, "last": last, "uneven": uneven}

    def _roll(self, net: MusicNet, batch: Batch, stream: Stream) -> Tensor:
        """Return beginnings, the chains' and real ones, and what the generator makes of them; the chains go on."""
        r, length, window = self.recipe, self.recipe.model.block, self.recipe.model.window
        rows, cold = batch["rows"], bool(batch["cold"])
        asked, head = batch["control"].split(length, 1), batch["x"][:, : window * length].clone()
        head[: len(rows)] = net.chains[rows]
        codec = net.codec
        stretch = slow.stretched(codec, length, r.sample.stretch, r.sample.since)
        context = FlowContext(net.flow, len(head), stretch=stretch)

        def before(number: int) -> None:
            context.control = asked[number]

        def settle(x: Tensor) -> Tensor:
            return codec.settle(x, context.past[-1] if context.past else None) if isinstance(codec, RollCodec) else x

        for number, block in enumerate(() if cold else head.split(length, 1)):
            before(number)
            context.commit(block)
        first = 0 if cold else window
        made = arc.rollout(
            context, net.flow.process, partial(_table, r.sample.solver, net.flow.process),
            (length, head.shape[2]), len(asked) - first, stream, most=r.arc.most, least=r.arc.least,
            through=r.arc.through, before=before, settle=settle, first=first,
        )  # fmt: skip
        net.chains[rows] = torch.cat(context.past[-window:], 1)[: len(rows)]
        return made if cold else torch.cat([head, made], 1)


def _timed() -> Tensor:
    """Return the mask [WIDTH] of tempo and beat."""
    keep = torch.zeros(controls.WIDTH)
    for k, name in enumerate(controls.GROUPS):
        if name in {"tempo", "beat"}:
            keep[controls.AT[name]] = keep[controls.FLAGS + k] = 1
    return keep


def _table(name: str, process: Gaussian, steps: int) -> Table:
    """Return a solver's table on the times at which it is played."""
    return solver(name, process, grid.angle(process, steps))
