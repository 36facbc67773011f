"""Are constrained draws exact? Automata and road graphs against brute-force enumeration.

The three joint laws of `core.constrain` are drawn through the constraint's window, as a sampler does: `product` (the
law of independent sites, conditioned), `exists` (revealed sites among completable values) and `reference` (a chain
fitted to marginals). What is drawn is compared with vectors over all admissible sequences; sampling error is included.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks._enumerate import Case, cases, exists_law, product_law, reference_law
from benchmarks._oracle import total_variation
from benchmarks.harness import Bar, Result
from core.constrain.chain import Markov
from core.constrain.law import LawWindow
from core.noise import Stream

__all__ = ["run"]

CHUNK = 20_000


def prediction(case: Case, seed: int) -> Tensor:
    """Return random log-probabilities of each site, float64 [L, K]."""
    g = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(case.length, case.tokens, generator=g, dtype=torch.float64)).log_softmax(-1)


def marginals(case: Case, law: Tensor) -> Tensor:
    """Return the marginals of a law over the admissible sequences [N], float64 [L, K]."""
    empty = torch.zeros(case.tokens, dtype=torch.float64)
    return torch.stack([empty.index_add(0, case.x[:, i], law) for i in range(case.length)])


def window(case: Case, rows: int, mode: str) -> LawWindow:
    """Return the window over whole sequences."""
    law = replace(case.build(rows), mode=mode, tolerance=1e-13 if rows == 1 else 1e-6, sweeps=2000)
    return law.window(law.begin(), np.arange(rows), case.length, 0)


def drawn(case: Case, mode: str, log_p: Tensor, reveal: Tensor, draws: int) -> tuple[Tensor, int]:
    """Return how often each admissible sequence is drawn at the sites `reveal`, [N], and the number of violations.

    Sequences that agree at these sites share their count evenly.
    """
    weight = case.tokens ** torch.arange(len(reveal))
    code, inverse, size = (case.x[:, reveal] * weight).sum(-1).unique(return_inverse=True, return_counts=True)
    counts, wrong = torch.zeros(len(code), dtype=torch.float64), 0
    sites = torch.zeros(CHUNK, case.length, dtype=torch.bool).index_fill(1, reveal, True)
    law = window(case, CHUNK, mode)
    for first in range(0, draws, CHUNK):
        u = Stream.of(1, CHUNK, first).uniform(case.length)
        x = law.admit(log_p.expand(CHUNK, -1, -1), torch.full_like(sites, -1, dtype=torch.long), sites, u)
        key = (x[:, reveal] * weight).sum(-1)
        at = torch.searchsorted(code, key).clamp(max=len(code) - 1)
        wrong += int((code[at] != key).sum())
        counts += torch.bincount(at, minlength=len(code))
    return (counts / size)[inverse], wrong


def draw_figures(case: Case, log_p: Tensor, draws: int) -> dict[str, float]:
    """Return total variations to enumeration of the draws of a case."""
    every, some = torch.arange(case.length), torch.arange(0, case.length, 2)
    group = (case.x[:, some] * case.tokens ** torch.arange(len(some))).sum(-1).unique(return_inverse=True)[1]
    share = torch.bincount(group)[group]
    met = marginals(case, product_law(case, log_p)[0]).log()  # marginals that some law on the case has
    laws = {
        "product": (every, product_law(case, log_p)[0]),
        "exists": (some, exists_law(case, log_p, some) / share),
        "reference": (every[-2:], reference_law(case, met, every[-2:])),
    }
    out: dict[str, float] = {"violations": 0}
    for mode, (reveal, law) in laws.items():
        counts, wrong = drawn(case, mode, met if mode == "reference" else log_p, reveal, draws)
        if mode == "reference":
            law = _shared(case, law, reveal)
        out[f"tv_{mode}"] = total_variation(counts / draws, law)
        out["violations"] += wrong
    return out


def _shared(case: Case, law: Tensor, reveal: Tensor) -> Tensor:
    """Spread a law evenly over the sequences that agree at `reveal`."""
    group = (case.x[:, reveal] * case.tokens ** torch.arange(len(reveal))).sum(-1).unique(return_inverse=True)[1]
    total = torch.zeros(int(group.max()) + 1, dtype=law.dtype).index_add(0, group, law)
    return (total / torch.bincount(group))[group]


def exact_figures(case: Case, log_p: Tensor) -> dict[str, float]:
    """Return the errors of marginals, log-partition, its gradient and the mode, and of the fitted marginals."""
    free = log_p[None].clone().requires_grad_()
    chain = Markov(window(case, 1, "product").plain, free)
    law, log_z = product_law(case, log_p)
    want = marginals(case, law)
    (gradient,) = torch.autograd.grad(chain.log_partition().sum(), free)
    best = case.x[law.argmax()]
    reveal = torch.arange(case.length - 2, case.length)
    match = torch.zeros(1, case.length, dtype=torch.bool).index_fill(1, reveal, True)
    fitted = window(case, 1, "reference")
    phi = fitted.potentials(want.log()[None], torch.full((1, case.length), -1), match)
    total = Markov(fitted.trellis, phi).log_prob(case.x[:1]).exp()
    return {
        "marginals": float((chain.marginals()[0].detach() - want).abs().max()),
        "log_partition": float((chain.log_partition().detach() - log_z).abs().max()),
        "gradient": float((gradient[0] - want).abs().max()),
        "mode": float((chain.mode()[0] != best).sum()),
        "reference": float((total - reference_law(case, want.log(), reveal)[0]).abs().max()),
    }


def run(full: bool) -> Result:
    """Measure every case; `full` draws five times as often."""
    draws = 1_000_000 if full else 200_000
    figures: dict[str, float | dict[str, float]] = {}
    worst: dict[str, float] = {}
    for number, case in enumerate(cases()):
        log_p = prediction(case, number)
        found = {"sequences": len(case.x), **draw_figures(case, log_p, draws), **exact_figures(case, log_p)}
        figures[case.name] = found
        for key, value in found.items():
            worst[key] = max(worst.get(key, 0.0), value)
    names = ("product", "exists", "reference")
    claim = "draws: total variation to enumeration, worst of 7 laws"
    bars = [Bar(f"{n} {claim}", worst[f"tv_{n}"], "<=", 0.01) for n in names]
    bars += [
        Bar("marginals equal enumeration", worst["marginals"], "<=", 1e-10),
        Bar("mode equals enumeration: differing sites", worst["mode"], "<=", 1e-10),
        Bar("log-partition equals enumeration", worst["log_partition"], "<=", 1e-10),
        Bar("gradient of the log-partition = marginals", worst["gradient"], "<=", 1e-10),
        Bar("fitted reference chain equals scaling of the whole vector", worst["reference"], "<=", 1e-10),
        Bar("inadmissible draws", worst["violations"], "==", 0),
    ]
    units = {"tv_*": "total variation", "marginals": "probability", "log_partition": "nats", "draws": "per law, mode"}
    notes = "Four automata, three road graphs with a hop budget; `exists` at every other site, `reference` at two."
    return Result({**figures, "draws": draws}, bars, units, notes=notes)
