"""Is the tilted law `p_pre exp(r / alpha)` reached? Enumerable spaces, exact denoisers, brute force.

`toy`: 4,096 strings of 6 letters out of 4; a random Markov chain; the reward is additive plus noise of half its size on
each string. `GB1`: all 160,000 variants of four sites; the prior is the first-order chain of the variants of fitness
0.1 to 1, and the reward the logarithm of the measured fitness, at least 0.01 (also where it was not measured). The law
of what is trained is enumerated; what is sampled is counted, with the expected distance of as many independent draws
from the target beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apps.bio.protein.landscape import load, variants
from benchmarks._oracle import index, sequences, total_variation
from benchmarks._surrogate import gradient_errors
from benchmarks._tilted import Chain, Table, Tuned, enumerate_sampler, floor, prior, random_chain, tilt, tune
from benchmarks.harness import ROOT, Bar, Result
from core.finetune import drakes
from core.finetune.steer import ByClassifier, Gilc, GilcBlackBox, Smc, Steering, Svdd, Tds
from core.noise import Stream

__all__ = ["run"]

CHUNK, PARTICLES = 65_536, 4096
DATA = ROOT.parent / "shared" / "data" / "bio"


@dataclass(eq=False)
class Case:
    """A prior with a reward."""

    name: str
    chain: Chain
    reward: Table
    alpha: float
    length: int
    lookahead: int
    draws: int
    part: int

    @property
    def target(self) -> Tensor:
        """Return the tilted law."""
        return tilt(self.chain.law(), self.reward.values, self.alpha)


def toy() -> Case:
    """Return the toy of 4,096 strings."""
    g, K, length = torch.Generator().manual_seed(1), 4, 6
    each = torch.randn(K**length, generator=g, dtype=torch.float64)
    site = torch.randn(length, K, generator=g, dtype=torch.float64)
    r = site[torch.arange(length), sequences(K, length)].sum(-1) + each / 2
    return Case("toy", random_chain(K, length, 0), Table(r, K), 1.0, length, 4, 524_288, 16)


def gb1(folder: Path = DATA) -> Case:
    """Return the GB1 landscape."""
    fitness = load(folder).fitness
    x = variants()[(fitness >= 0.1) & (fitness <= 1)]
    start = torch.bincount(x[:, 0], minlength=20).double() + 1
    move = [torch.bincount(x[:, i] * 20 + x[:, i + 1], minlength=400).double().view(20, 20) + 1 for i in range(3)]
    chain = Chain(start / start.sum(), torch.stack([m / m.sum(-1, keepdim=True) for m in move]))
    return Case("GB1", chain, Table(fitness.nan_to_num(0).clamp_min(0.01).log(), 20), 0.5, 4, 16, 1_572_864, 128)


def sampled(case: Case, method: Steering, draws: int, target: Tensor) -> dict[str, float]:
    """Return the distance of a method's draws from a law, and what they cost."""
    base, total = prior(case.chain, case.reward.K, case.length), torch.zeros(len(target), dtype=torch.float64)
    chunk = min({Smc: CHUNK, Tds: PARTICLES}.get(type(method), 1024), draws)
    parts = [method(base, case.reward, chunk, Stream.of(0, 1, k)) for k in range(0, draws, chunk)]
    weights = torch.cat([p.x.new_zeros(len(p.x)).double() if p.log_weight is None else p.log_weight for p in parts])
    total.index_add_(0, torch.cat([index(p.x, case.reward.K) for p in parts]), weights.softmax(0))
    out = {"total variation": total_variation(total, target), "floor": floor(target, draws), "draws": float(draws)}
    for what in ("calls", "gradients", "network_calls"):
        out[f"{what} per draw"] = sum(getattr(p, what) for p in parts) / draws
    if parts[0].ess is not None:
        out["effective share"] = sum(p.ess or 0.0 for p in parts) / draws
        out["ancestors per draw"] = sum(p.ancestors or 0 for p in parts) / draws
    return out


def kl_errors(case: Case, policy: Tuned, paths: int) -> dict[str, float]:
    """Return the path KL by enumeration and its estimates, and how many standard errors they are off."""
    exact = enumerate_sampler(policy, case.chain, case.reward.K, case.length)[1]
    base, out = prior(policy, case.reward.K, case.length), {"enumerated": exact}
    for name, steps in (("all steps", None), ("2 steps", 2)):
        found = drakes.path_kl(policy, case.chain, base, paths, Stream.of(7, 1), steps)
        out[name], out[f"{name}, standard error"] = found.value, found.error
        out[f"{name}, standard errors off"] = abs(found.value - exact) / found.error
    return out


def gradients(case: Case, policy: Tuned) -> dict[str, float]:
    """Return the relative error of the gradient against finite differences, and what truncation changes."""
    base, weight = prior(policy, case.reward.K, case.length), policy.inner[2].weight
    assert isinstance(weight, Tensor)
    walk = drakes.walk(policy, case.chain, base, torch.arange(32), Stream.of(5, 1), 0.5)
    mine, numeric = gradient_errors(walk, case.reward, case.alpha, case.length, weight)
    out = {"surrogate": mine, "finite differences": numeric}
    many = drakes.walk(policy, case.chain, base, torch.arange(512), Stream.of(5, 1), 0.5)
    found = []
    for truncate in range(1, case.length + 1):
        x_0, kl, _ = many.run(truncate)
        loss = case.alpha * kl.mean() - case.reward.soft(x_0).mean()
        found.append(torch.autograd.grad(loss, weight)[0].flatten())
    for truncate, g in enumerate(found, 1):
        out[f"cosine, {truncate} of {case.length} steps"] = float(torch.cosine_similarity(g, found[-1], 0))
    return out


def study(case: Case, scale: int, updates: int, paths: int) -> dict[str, dict[str, float]]:
    """Return all figures of a case."""
    alpha, law, target, draws = case.alpha, case.chain.law(), case.target, case.draws * scale
    part = case.part
    out = {"smc": sampled(case, Smc(alpha, PARTICLES, case.lookahead), draws, target)}
    methods = {
        "tds": Tds(alpha, PARTICLES, case.lookahead), "svdd": Svdd(alpha, 8), "classifier": ByClassifier(alpha),
        "gilc": Gilc(alpha), "gilc, scale 4": Gilc(alpha, scale=4), "gilc-black-box": GilcBlackBox(alpha),
        "gilc-black-box, scale 4": GilcBlackBox(alpha, scale=4),
    }  # fmt: skip
    out |= {name: sampled(case, method, draws // part, target) for name, method in methods.items()}
    endless = {"smc": (Smc(1e9, PARTICLES), 4), "tds": (Tds(1e9, PARTICLES), part), "gilc": (Gilc(1e9), part)}
    out |= {f"{n}, alpha to infinity": sampled(case, m, draws // few, law) for n, (m, few) in endless.items()}
    policy = tune(case.chain, case.reward, alpha, updates, 64, 0.5)
    tuned = enumerate_sampler(policy, case.chain, case.reward.K, case.length)[0]
    best = alpha * float((law.log() + case.reward.values / alpha).logsumexp(0))
    kl = kl_errors(case, policy, paths)
    objective = float(tuned @ case.reward.values) - alpha * kl["enumerated"]
    out["drakes"] = {"total variation": total_variation(tuned, target), "objective": objective, "optimum": best}
    out["path KL"], out["gradient"] = kl, gradients(case, policy)
    out["prior"] = {"total variation": total_variation(law, target), "mean reward": float(law @ case.reward.values)}
    return out


def run(full: bool) -> Result:
    """Measure; `full` draws four times as often and tunes twice as long."""
    scale = 4 if full else 1
    figures, bars = {}, []
    for case in (toy(), gb1()):
        found = study(case, scale, 400 * (1 + full), 4000)
        figures[case.name] = found
        bars.append(Bar(f"{case.name}: smc: total variation", found["smc"]["total variation"], "<=", 0.05))
        off = max(v for k, v in found["path KL"].items() if k.endswith("errors off"))
        bars.append(Bar(f"{case.name}: path KL: standard errors off", off, "<=", 3.0))
        bars.append(Bar(f"{case.name}: gradient: relative error", found["gradient"]["finite differences"], "<=", 1e-3))
        ratios = [v["total variation"] / v["floor"] for k, v in found.items() if k.endswith("infinity")]
        bars.append(
            Bar(f"{case.name}: alpha to infinity: distance from the prior over its floor", max(ratios), "<=", 1.25)
        )
    units = {"total variation": "to the tilted law", "floor": "expected for as many independent draws"}
    notes = (
        f"Populations of {PARTICLES} weighed by their evidence; DRAKES: law enumerated after {400 * (1 + full)} "
        "updates of 64 paths, all steps back-propagated, temperature 0.5; the straight-through gradient is biased."
    )
    return Result(figures, bars, units, notes=notes)
