"""Is the discrete core exact? Process, bounds, samplers and cache against enumeration.

Toys of 3 tokens and 3 or 4 sites have at most 256 noisy states, so the exact denoiser, the exact likelihood and the
law of every sampler are finite sums; nothing is trained and nothing is estimated except the samplers' chi-squares.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from benchmarks._laws import corrected_law, definitions, exact, expected, observed, observed_blocks
from benchmarks._oracle import Oracle, chi_square, count_bound, index, markov_law, mislabelled, rate_bound, sequences
from benchmarks.harness import Bar, Result
from core.denoiser import Prediction, subs
from core.nn.transformer import BlockTransformer, KVCache, TransformerConfig
from core.process.categorical import Categorical
from core.solvers.tokens import Ancestral, Corrected, FirstHitting

__all__ = ["run"]

PROCESSES = {
    "absorbing": Categorical.absorbing(3),
    "uniform": Categorical.uniform(3),
    "marginal": Categorical.marginal(torch.tensor([0.2, 0.5, 0.3])),
}


def bayes_error() -> float:
    """Return the largest error of any one-site posterior against Bayes' rule by enumeration of x_s."""
    worst = 0.0
    for process in PROCESSES.values():
        eye, K = torch.eye(process.states, dtype=torch.float64), process.K
        for t, s in [(0.7, 0.4), (0.9, 0.05), (0.7, 0.0), (1.0, 0.4), (1.0, 0.0)]:
            a = (1 - t) / (1 - s)
            step = a * eye + (1 - a) * process.pi
            prior = process.forward(torch.arange(K), s)
            joint = prior[:, :, None] * step  # [x_0, x_s, x_t]
            total = joint.sum(1)
            for x_0, x_t in itertools.product(range(K), range(process.states)):
                if total[x_0, x_t] > 0:
                    got = process.bridge(torch.tensor([[x_t]]), torch.tensor([[x_0]]), t, s)[0, 0].exp()
                    worst = max(worst, float((got - joint[x_0, :, x_t] / total[x_0, x_t]).abs().max()))
    return worst


class Table:
    """A network that is any function of `x_t`: random logits for each state."""

    def __init__(self, process: Categorical, length: int, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.process = process
        self.logits = torch.randn(process.states**length, length, process.K, generator=g, dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: Tensor, context: object = None) -> Prediction:
        return subs(self.logits[index(x_t, self.process.states)], x_t, self.process.K)


def likelihood(net: Table, x: Tensor) -> Tensor:
    """Return the exact NLL of the any-order model, over all orders of revealing: float64 [B]."""
    rows = []
    for order in itertools.permutations(range(x.shape[1])):
        x_t, total = torch.full_like(x, net.process.K), torch.zeros(len(x), dtype=torch.float64)
        for i in order:
            total = total + net(x_t, torch.tensor(0.5)).log_p[:, i].gather(-1, x[:, i : i + 1])[:, 0]
            x_t[:, i] = x[:, i]
        rows.append(total)
    return math.log(len(rows)) - torch.stack(rows).logsumexp(0)


def bound_figures(networks: int) -> dict[str, float]:
    """Return how far bounds lie from exact likelihoods, in nats per sequence."""
    law = markov_law(3, 4)
    figures: dict[str, float] = {}
    for block in (1, 2, 4):
        oracle = Oracle(law, PROCESSES["absorbing"], 4)
        gap = count_bound(oracle, oracle.process, oracle.x, block) + law.log()
        figures[f"count_gap_exact_block_{block}"] = float(gap.abs().max())
    nets = [Table(PROCESSES["absorbing"], 4, seed) for seed in range(networks)]
    gaps = [count_bound(net, net.process, sequences(3, 4)) - likelihood(net, sequences(3, 4)) for net in nets]
    figures["smallest_gap_random_networks"] = float(torch.stack(gaps).min())
    small = markov_law(3, 3)
    for name, process in PROCESSES.items():
        oracle = Oracle(small, process, 3)
        figures[f"rate_gap_exact_{name}"] = float((rate_bound(oracle, process, oracle.x, 40) + small.log()).abs().max())
    wrong = rate_bound(mislabelled(Oracle(small, PROCESSES["uniform"], 3)), PROCESSES["uniform"], sequences(3, 3), 40)
    figures["cost_of_mislabelling_uniform"] = float(small @ (wrong + small.log()))
    return figures


def sampler_figures(draws: int) -> dict[str, float]:
    """Return the chi-square p-value of every solver, at several numbers of steps, against its enumerated law."""
    figures: dict[str, float] = {}
    for noise in ("absorbing", "uniform"):
        net = exact(noise)
        for name, (solver, kernel) in definitions(net).items():
            for steps in (1, 2, 3, 5):
                p = chi_square(observed(net, solver, steps, draws), expected(net, steps, kernel))
                figures[f"p_{noise}_{name}_{steps}"] = p
    net = exact("uniform")
    figures["p_uniform_corrected_3"] = chi_square(
        observed(net, Corrected(Ancestral(), 2), 3, draws), corrected_law(net, 3, 2)
    )
    net = exact("absorbing", 4)
    for block in (1, 2, 4):
        counts = observed_blocks(net, FirstHitting(), block, block, draws)
        figures[f"p_blocks_of_{block}_against_data"] = chi_square(counts, net.oracle.law)
    return figures


@torch.no_grad()
def cache_error(dtype: torch.dtype) -> float:
    """Return the largest difference of hidden states between one uncached pass and streaming over the cache."""
    torch.manual_seed(0)
    config = TransformerConfig(dim=64, depth=3, heads=4)
    trunk, batch, size, count = BlockTransformer(config).to(dtype).eval(), 2, 4, 6
    clean = torch.randn(batch, size * count, config.dim, dtype=dtype)
    noisy = torch.randn_like(clean)
    place = torch.arange(size * count)
    flags = torch.cat([torch.zeros_like(place), torch.ones_like(place)]).bool()
    both, twice = torch.cat([noisy, clean], 1), torch.cat([place, place])
    whole = trunk(both, twice, twice // size, flags)[:, : size * count]
    cache, worst = KVCache(config, batch, size * (count + 1), dtype), 0.0
    for b in range(count):
        here = slice(b * size, (b + 1) * size)
        past = slice(max(b - 1, 0) * size, b * size)
        h = torch.cat([clean[:, past], noisy[:, here]], 1)
        at = torch.cat([place[past], place[here]])
        flag = torch.cat([torch.ones(len(place[past])), torch.zeros(size)]).bool()
        out = trunk(h, at, at // size, flag, cache=cache)[:, len(place[past]) :]
        cache.commit(place[past] // size)
        worst = max(worst, float((out - whole[:, here]).abs().max()))
    return worst


def run(full: bool) -> Result:
    """Measure all of it; `full` takes more networks and draws."""
    bounds, samplers = bound_figures(20 if full else 5), sampler_figures(1_000_000 if full else 100_000)
    figures = {
        "bayes_error": bayes_error(),
        **bounds,
        **samplers,
        "smallest_p": min(samplers.values()),
        "cache_error_float64": cache_error(torch.float64),
        "cache_error_float32": cache_error(torch.float32),
    }
    rate = max(v for k, v in bounds.items() if k.startswith("rate_gap"))
    bars = [
        Bar("posterior = Bayes", figures["bayes_error"], "<=", 1e-12),
        Bar("every sampler's law: smallest chi-square p", figures["smallest_p"], ">", 1e-3),
        Bar("ELBO >= exact NLL, random networks: smallest gap", bounds["smallest_gap_random_networks"], ">=", 0.0),
        Bar("ELBO = exact NLL, exact denoiser, block size 1", bounds["count_gap_exact_block_1"], "<=", 1e-12),
        Bar("rate form = exact NLL, exact denoiser, quadrature", rate, "<=", 1e-6),
        Bar("cached - uncached, float64", figures["cache_error_float64"], "<=", 1e-12),
        Bar("cached - uncached, float32", figures["cache_error_float32"], "<=", 1e-5),
    ]
    units = {
        "*_gap_*": "nats per sequence",
        "p_*": "p-value",
        "bayes_error": "probability",
        "cache_error_*": "hidden state",
    }
    notes = (
        "Markov chains over 3 tokens; samplers at 3 sites with the exact denoiser, p_<noise>_<solver>_<steps>. "
        "The fixed seed makes the smallest of all p-values reproducible; it is a minimum over many tests."
    )
    return Result(figures, bars, units, seed=0, notes=notes)
