"""What each part is worth: the law, joint draws, the encoder, experience, guidance, the mode of the joint law.

All variants answer the requests of test trips with the SAME trained weights; a part is switched off at run time, so
these are ablations of sampling, not of training: a network trained without the part would have made up for some of it.

| variant | what is off |
|---|---|
| no law | every segment of the window at every site; sites drawn independently |
| independent | each site restricted to what is possible given the sites known; sites revealed together independent |
| encoder off | road embeddings are zero: a candidate is its view (distances, directions) alone |
| messages off | road embeddings without the neighbours' messages |
| experience off | all transitions as if never driven |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from apps.trajectory.constraints import TripLaw
from apps.trajectory.data import Trips
from apps.trajectory.field import Fields
from apps.trajectory.generate import TripModel
from apps.trajectory.metrics import score_pairs
from benchmarks._trips import cut, legal, model, parts, rounded, single
from benchmarks.harness import Result
from core.constrain.law import FreeWindow, Law, LawWindow, Mode, Window

__all__ = ["run"]

SEED = 13
SHOWN = ("hausdorff_km", "dtw_km", "dtw_km_median", "edr", "jaccard", "exact")


@dataclass(eq=False)
class _LooseWindow(LawWindow):
    """A window whose sites are drawn independently, restricted site by site or not at all."""

    restricted: bool = False

    def settle(self, known: Tensor) -> Tensor:
        """Fill nothing, or what is forced."""
        return super().settle(known) if self.restricted else known

    def restrict(self, log_p: Tensor, known: Tensor) -> Tensor:
        """Renormalise over the window's segments, those still possible where any is."""
        valid = (self.alphabet >= 0)[:, None, :].expand_as(log_p)
        if self.restricted:
            possible = self.allowed(known)
            valid = torch.where(possible.any(-1, keepdim=True), possible, valid)
        return log_p.masked_fill(~valid, -torch.inf).log_softmax(-1)

    def admit(self, log_p: Tensor, known: Tensor, reveal: Tensor, u: Tensor, greedy: bool = False) -> Tensor:
        """Draw each site from its own prediction."""
        return FreeWindow(self.alphabet).admit(self.restrict(log_p, known), known, reveal, u, greedy)


@dataclass(eq=False)
class _LooseLaw(Law):
    """A law that opens the same windows but does not enforce them."""

    restricted: bool = False

    def window(self, state: np.ndarray, rows: np.ndarray, length: int, remaining: int) -> LawWindow:
        """Return the window, as if the budget never ended (a broken trip may be anywhere)."""
        inner = super().window(state, rows, length, max(remaining, 1 << 20))
        return _LooseWindow(**vars(inner), restricted=self.restricted)

    def advance(self, window: Window, tokens: Tensor) -> np.ndarray:
        """Go on from the last segment, however it was reached."""
        return window.alphabet.gather(1, tokens[:, -1:])[:, 0].numpy()


@dataclass(eq=False)
class _LooseModel(TripModel):
    """A model that draws without its law; `loose` from a trained one."""

    restricted = False

    def law(self, origin: np.ndarray, targets: list[tuple[int, ...]]) -> TripLaw:
        """Return the same law, not enforced."""
        bound = super().law(origin, targets)
        names = Law.__dataclass_fields__
        return replace(bound, law=_LooseLaw(**{k: getattr(bound.law, k) for k in names}, restricted=self.restricted))


def loose(ours: TripModel, restricted: bool) -> TripModel:
    """Return a trained model without the law, or restricted site by site."""
    out = object.__new__(_LooseModel)
    vars(out).update(vars(ours.set(detour=float("inf"))), restricted=restricted)
    return out


def _with(ours: TripModel, **changes: Any) -> TripModel:
    out = ours.obeying(ours.rules)
    vars(out).update(changes)
    return out


def variants(ours: TripModel) -> dict[str, TripModel]:
    """Return the model and its ablations."""
    with torch.no_grad():
        alone = ours.net.as_candidates(ours.net.roads.norm(ours.net.roads.inputs(ours.net.features)))
    out = {
        "full": ours,
        "no law": loose(ours, restricted=False),
        "independent": loose(ours, restricted=True),
        "independent, one step": loose(ours.set(steps=1), restricted=True),
        "joint, one step": ours.set(steps=1),
        "encoder off": _with(ours, roads=torch.zeros_like(ours.roads)),
        "messages off": _with(ours, roads=alone),
        "experience off": _with(ours, fields=Fields(ours.network, prior=ours.fields.prior)),
        "guidance 0.5": ours.set(guidance=0.5),
        "guidance 1": ours.set(guidance=1.0),
    }
    return out | {f"mode {m}": ours.set(mode=m) for m in get_args(Mode) if m != ours.recipe.sample.mode}


def _judge(variant: TripModel, test: Trips) -> dict[str, Any]:
    request = test.origin.astype(np.int64), test.destination.astype(np.int64), test.depart
    out: dict[str, Any] = {}
    for name, greedy in (("sample", False), ("greedy", True)):
        trips = variant.sample(*request, seed=SEED, greedy=greedy, timed=False)
        arrived = trips.destination == test.destination
        means = score_pairs(trips, test).means()
        out[name] = {k: means[k] for k in SHOWN}
        out[name] |= {"broken": 1 - legal(trips) / len(trips), "arrived": float(arrived.mean())}
        out[name]["hops"] = float(trips.hops().mean())
    return out


def run(full: bool) -> Result:
    """Judge every variant on 96 test requests (all when full)."""
    single()
    ours = model("porto")
    test, _ = cut(parts()[2])
    test = test.select(test.hops() <= ours.recipe.data.max_hops)
    test = test if full else test.select(slice(0, 96))
    found = {name: _judge(variant, test) for name, variant in variants(ours).items()}
    for name in ("full", "encoder off", "messages off", "experience off"):
        found[name]["nats_per_trip_exact"] = float(nats(ours, name, test).mean())
    cfg = ours.recipe.sample
    notes = (
        f"{len(test)} test requests; full = block {cfg.block}, {cfg.steps} steps, {cfg.solver}, mode {cfg.mode}, "
        f"guidance {cfg.guidance}; broken = at least one transition that the network does not have; encoder off = road "
        "embeddings set to zero at run time (not a variant trained without)"
    )
    return Result(rounded(found), [], {"nats_per_trip_exact": "nats"}, seed=SEED, notes=notes)


def nats(ours: TripModel, name: str, test: Trips) -> np.ndarray:
    """Exact nats of each trip with a part of the network off."""
    variant = variants(ours)[name]
    encoder = ours.net.embed_roads
    try:
        ours.net.embed_roads = lambda: variant.roads  # type: ignore[method-assign]
        return variant.nll(test, 1)
    finally:
        ours.net.embed_roads = encoder  # type: ignore[method-assign]
