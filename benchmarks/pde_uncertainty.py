"""Do ensembles say how sure they are? Coverage of 90 % intervals and spread over error, on trajectories nobody saw.

Members differ by perturbed tendencies (`apps/pde/ensemble.py`), whose size, reach, memory and floor are found on the
recipe's validation trajectories and whose scale over time on eight further ones: `quintet pde calibrate MODEL`, which
keeps the result beside the weights; nothing is calibrated here. Judged on test trajectories, pooled over states, fields
and the nodes that no boundary value sets. The shipped `toy` (Burgers around a hole; twelve tests, simulated here) and,
with --full, Burgers A (`runs/pde/burgers-0`, its ten tests).

The state sampler is fitted to the training trajectories of `quintet pde simulate cylinder` and draws states at Reynolds
numbers that they do not have: mean and root mean square fluctuation of its fields beside those of the truth.

**Refiner.** `quintet pde train burgers model.refine=2 base=runs/pde/burgers-0 trainer.steps=400 trainer.ema=0.99 \\
--out runs/pde/burgers-refined-0` trains a refiner (`apps/pde/refine.py`) around the kept weights of `burgers-0`. From
fresh starts, over ten times the horizon of the training (within it the correlation does not fall so far), the time
until the correlation with the spectral solution is below 0.9, at four calls of networks for the span of four states:
two of Heun's step and two of the refiner, against two of Heun's steps of half the length without it.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from apps import pde
from apps.pde import ensemble, metrics, spectral, states
from apps.pde.data import Splits, splits
from apps.pde.generate import FieldModel
from benchmarks import _pde
from benchmarks.harness import Bar, Result

__all__ = ["run"]

MEMBERS, FRAMES, TESTS, DRAWN = 32, 20, 12, 512
STARTS, EVERY = 80_000, 40  # seed of the refiner's first start; steps of the spectral solver between states


def judge(model: FieldModel, data: Splits) -> dict[str, Any]:
    """Return coverage, spread over error and CRPS, beside those of members that differ in their starts alone."""
    test, stride = data.test, model.recipe.stride
    steps = (test.states.shape[1] - 1) // stride
    every = max(1, steps // FRAMES)
    free = ~model.net.boundary.dirichlet.all(-1).numpy()
    truth = test.states[:, :: stride * every][:, 1 : steps // every + 1, free]
    found = model.spread
    start = torch.from_numpy(test.states[:, 0])
    out: dict[str, Any] = {"sigma": found.tendency, "rings": found.rings, "memory": found.memory, "floor": found.floor}
    out |= {
        "least": found.least,
        "scale": list(found.scale),
        "kept_beside_the_weights": bool(found.scale),
        "test_trajectories": len(test),
    }
    plain = replace(found, least=0.0, times=(), scale=())
    for label, spread in (("", found), ("unscaled_", plain), ("noisy_starts_", ensemble.Spread(start=0.02))):
        own = ensemble.members(model.net, start, steps, spread, MEMBERS, 0, every=every, stride=stride)
        own = own[:, :, 1:, free].swapaxes(0, 1)
        out[f"{label}coverage"] = metrics.coverage(own, truth)
        out[f"{label}spread_skill"] = metrics.spread_skill(own, truth)
        out[f"{label}crps"] = metrics.crps(own, truth)
    one = alone(model, start, steps, every, stride)[:, :, free]
    return out | {"mean_absolute_error_of_one_rollout": float(np.abs(one - truth).mean())}


def alone(model: FieldModel, start: torch.Tensor, steps: int, every: int, stride: int) -> np.ndarray:
    """Return the undisturbed roll-out at the states that are judged."""
    still = ensemble.members(model.net, start, steps, ensemble.Spread(), 1, 0, every=every, stride=stride)
    return still[:, 0, 1:]


def sampled() -> dict[str, Any]:
    """Return relative errors of the state sampler's mean and fluctuation at Reynolds numbers of the tests to 400."""
    data, remark = _pde.wakes()
    if data is None:
        return {}
    sampler = states.fit(data.train)
    lowest, highest = (float(f(data.train.parameters["Re"])) for f in (np.min, np.max))
    out: dict[str, Any] = {"bandwidth": sampler.h, "modes": len(sampler.modes.scale), "remark": remark}
    for row, number in enumerate(data.test.parameters["Re"]):
        if not lowest <= number <= highest:
            continue
        truth, drawn = data.test.states[row].astype(np.float64), sampler.sample(DRAWN, {"Re": float(number)})
        # whole periods of the truth, counted by its lift, so that no part of a cycle counts twice
        lift = data.test.extra["force"][row, :, 1]
        up = np.flatnonzero((lift[:-1] < 0) & (lift[1:] >= 0))
        truth = truth[up[0] : up[-1]]
        pairs = {"mean": (drawn.mean(0), truth.mean(0)), "rms": (drawn.std(0), truth.std(0))}
        out |= {f"{k}_{number:g}": float(np.linalg.norm(a - b) / np.linalg.norm(b)) for k, (a, b) in pairs.items()}
    for kind in ("mean", "rms"):
        out[kind] = float(np.mean([v for k, v in out.items() if k.startswith(f"{kind}_")]))
    return out


def refined() -> dict[str, Any]:
    """Return the times until the correlation is lost, with the refiner and without, at equal calls of networks."""
    model = _pde.model("burgers-refined-0")
    if model is None or model.net.refiner is None:
        return {}
    net, stride = model.net, model.recipe.stride
    plain = copy(net)
    plain._modules = {**net._modules, "refiner": None}
    solver, dt = spectral.Spectral("burgers", net.system.parameters, 128), 4e-3
    steps = round(10 * model.recipe.data.steps * net.dt / dt)
    starts = [np.moveaxis(spectral.initial(solver.grid(), STARTS + k), -1, 0) for k in range(4)]
    truth = np.stack([solver.run(start, dt, steps, EVERY, net.mesh.points) for start in starts])
    times, out = np.arange(truth.shape[1]) * EVERY * dt, {"calls_of_networks": 2 + model.recipe.model.refine}
    kinds = {"refined": (net, stride), "plain": (plain, stride // 2), "plain_long_steps": (plain, stride)}
    for name, (own, each) in kinds.items():
        every = round(EVERY * dt / net.dt) // each
        u, found = torch.from_numpy(truth[:, 0].astype(np.float32)), [truth[:, 0]]
        with torch.inference_mode():
            for k in range((len(times) - 1) * every):
                u = own.refined(u, k * each * net.dt, None, each)
                if (k + 1) % every == 0:
                    found.append(u.numpy().astype(np.float64))
        path = np.stack(found, 1)
        lost = metrics.correlation_time(path, truth, times, 0.9)
        out |= {f"{name}_correlation_time": float(lost.mean()), f"{name}_correlation_times": lost.tolist()}
        out[f"{name}_mse_to_horizon"] = float(np.square(path - truth)[:, 1 : len(times) // 10 + 1].mean())
    return out | {"longer": out["refined_correlation_time"] / out["plain_correlation_time"] - 1}


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    toy = pde.load("toy")
    wide = replace(toy.recipe.data, test=TESTS)
    figures = {"toy": judge(toy, splits(wide, toy.recipe.seed))}
    model, data = (_pde.model("burgers-0"), _pde.kept("burgers")) if full else (None, None)
    if model is not None and data is not None:
        figures["burgers_a"] = judge(model, data)
    bars = []
    for name, found in figures.items():
        bars += [Bar(f"{name}: coverage of 90 % intervals, at least", found["coverage"], ">=", 0.87),
                 Bar(f"{name}: coverage of 90 % intervals, at most", found["coverage"], "<=", 0.93),
                 Bar(f"{name}: spread over error, at least", found["spread_skill"], ">=", 0.9),
                 Bar(f"{name}: spread over error, at most", found["spread_skill"], "<=", 1.1)]  # fmt: skip
    figures["states"] = drawn = sampled()
    figures["refiner"] = more = refined()
    bars += [Bar("Refiner at equal calls: longer correlation time, share", more.get("longer", np.nan), ">=", 0.1),
             Bar("State sampler, mean field, relative error", drawn.get("mean", np.nan), "<=", 0.03),
             Bar("State sampler, RMS field, relative error", drawn.get("rms", np.nan), "<=", 0.08)]  # fmt: skip
    return Result(figures, bars, {"crps": "fields' own units"}, notes="nan: not measured, a missed bar.")
