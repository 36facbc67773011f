"""Direction matters: the directed denoiser beside the symmetric one on NB101-type graphs, held-out likelihood."""

from __future__ import annotations

import sys

import torch

from apps.nas.data import uniform
from apps.nas.task import make, predictor
from benchmarks._nas import single
from benchmarks.harness import Bar, Result
from core.noise import Stream
from core.objective import elbo
from core.run.config import load_recipe


def trained(directed: bool, steps: int, seed: int) -> tuple[float, float, int]:
    """Return the bound in nats per cell on fresh cells, its error, and the parameters."""
    changes = [f"model.directed={directed}", f"seed={seed}", "model.dim=32", "model.edge_dim=16", "data.batch=64"]
    task = make(load_recipe("nas", "nb101", changes))
    torch.manual_seed(seed)
    net = task.module()
    adam = torch.optim.AdamW(net.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, steps)
    for step in range(steps):
        loss, _ = task.loss(net, task.batch(step, 0, 1), step)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        rate.step()
    held = uniform(task.space, 2000, 9999)
    found = elbo.bound(predictor(net.eval(), task.process), task.process, held, Stream.of(5, len(held)), samples=4)
    print(f"directed {directed}, seed {seed}: {found.per_site * task.space.D:.3f}", file=sys.stderr, flush=True)
    D = task.space.D
    return found.per_site * D, found.standard_error * D, sum(p.numel() for p in net.parameters())


def run(full: bool) -> Result:
    """Train both with the same steps and nearly the same parameters."""
    single()
    steps, seeds = (2000, 3) if full else (400, 2)
    both = {name: [trained(name == "directed", steps, s) for s in range(seeds)] for name in ("directed", "symmetric")}
    mean = {name: sum(r[0] for r in rows) / seeds for name, rows in both.items()}
    figures = {**{f"{k} nats per cell": v for k, v in mean.items()}, "standard error": both["directed"][0][1],
               "parameters": {k: r[0][2] for k, r in both.items()}, "steps": steps}  # fmt: skip
    gain = mean["symmetric"] - mean["directed"]
    bars = [Bar("nats per cell by which the directed denoiser is better, held out", gain, ">", 0)]
    notes = "Cells of NB101 drawn uniformly; fresh ones judge. The directed net has its position tables on top."
    return Result(figures, bars, notes=notes)
