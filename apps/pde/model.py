"""Recipes of the pde app: what is simulated, what the model is told, how it is trained.

    u_t = known terms + network,      u^{k+1} = one padded Runge-Kutta step,      loss = MSE over M-step roll-outs.

The networks stand in `network.py`, the model that joins them with operators and boundaries in `dynamics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, setting

__all__ = ["DataConfig", "ModelConfig", "Recipe"]


@dataclass
class ModelConfig:
    """Shape of the model.

    `kind`: `plus` (PhyMPGN+), `phympgn` (the paper's), `operators` (no network: what the known terms alone can do).
    `knowledge`: terms that are told, `none`, `diffusion` or `full`; `terms` adds or replaces some, field: expression.
    `operators`, `k`, `degree`: family and size of stencils (0: the family's own). `correct` learns a change of them.
    `integrator`: a tableau of the core's, `imex`, or `chebyshev` with `stages` (stable while
    dt |lambda| < 0.65 (stages^2 - 1)). `inputs`: highest derivative that the network sees.
    `still` says that uniform states do not move by themselves (no reactions, no sources); `nonlinear` that the known
    terms are all that is linear in the state; `totals` weighs the fields' integrals in the first regression and the
    loss; with `relative` that regression counts each state's error in units of its own rate, however small that is.
    `lift` functions of the state have derivatives that the network sees.
    `fine` times the mesh is refined for what happens inside; the data stay on its nodes (`submesh.py`), and `sweeps`
    times states there and the regression are found in turn.
    `refine` calls of a refiner follow each step (`refine.py`; 0: none).
    `laplace`, `block`, `padding`, `split` belong to PhyMPGN; `padding` off leaves the boundary to the network.
    """

    kind: str = setting("plus", choices=("plus", "phympgn", "operators"))
    knowledge: str = setting("diffusion", choices=("none", "diffusion", "full"))
    terms: dict[str, str] = field(default_factory=dict)
    operators: str = setting("rbf", choices=("rbf", "least_squares", "cotangent"))
    k: int = setting(0, low=0)
    degree: int = setting(0, low=0, high=10)
    correct: bool = setting(False)
    integrator: str = setting("heun", choices=("euler", "midpoint", "heun", "heun3", "rk4", "chebyshev", "imex"))
    stages: int = setting(4, low=2)
    width: int = setting(64, low=0)
    rounds: int = setting(0, low=0)
    inputs: int = setting(2, low=0, high=2)
    still: bool = setting(False)
    nonlinear: bool = setting(False)
    totals: float = setting(0.0, low=0)
    relative: bool = setting(False)
    lift: int = setting(0, low=0)
    fine: int = setting(0, low=0, high=3)
    sweeps: int = setting(2, low=0)
    refine: int = setting(0, low=0)
    laplace: str = setting("block", choices=("block", "plain"))
    block: int = setting(16, low=4)
    padding: bool = setting(True)
    split: bool = setting(True)
    checkpoint: bool = setting(True)


@dataclass
class DataConfig:
    """Which trajectories, and how they are made.

    `file` is a data set written by `quintet pde simulate`, whose time between states becomes `dt`; without one the
    trajectories are simulated from `seed` on (and kept in `cache` where one is given): `train`, `valid` and `test` of
    them, of different initial states, or for the cylinder one for each of the Reynolds numbers `reynolds`,
    `reynolds_valid`, `reynolds_test`.
    `mesh` is a mesh file; without one a mesh of `shape` with about `nodes` nodes is made. `dt` is the time between
    states, `steps` their number; `fine` the grid (spectral) or the number of refinements (finite elements) of the
    truth and `truth_dt` its time step (0: chosen). `substeps` are the model's steps between two states.
    """

    system: str = setting("burgers")
    shape: str = setting("")
    nodes: int = setting(500, low=30)
    mesh: str = setting("")
    boundary: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, float] = field(default_factory=dict)
    file: str = setting("")
    cache: str = setting("")
    train: int = setting(10, low=1)
    valid: int = setting(2, low=1)
    test: int = setting(10, low=1)
    reynolds: list[float] = setting([], low=1)
    reynolds_valid: list[float] = setting([], low=1)
    reynolds_test: list[float] = setting([], low=1)
    dt: float = setting(1e-3, low=0)
    steps: int = setting(1600, low=1)
    substeps: int = setting(1, low=1)
    fine: int = setting(0, low=0)
    truth_dt: float = setting(0.0, low=0)
    warmup: float = setting(0.0, low=0)
    modes: int = setting(6, low=1)


@dataclass
class Recipe:
    """A training run: all that `quintet pde train` can be told. `seed` is of the data, `trainer.seed` of the rest.

    `window` is M, the states of a roll-out, `stride` apart (a step of the model is that long in training); `noise` the
    standard deviation, in units of each field's, that is added to the first state afresh each time; `loss` `all`
    frames, or `ends` (first and last, the gradient cut after the first step, as the paper's code does).
    `batch` windows make a step. `base` is a trained run of the same recipe without a refiner: its weights are taken and
    stay, and the refiner alone is trained.
    """

    seed: int = setting(0, low=0)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: int = setting(4, low=1)
    window: int = setting(20, low=2)
    stride: int = setting(1, low=1)
    noise: float = setting(0.03, low=0)
    loss: str = setting("all", choices=("all", "ends"))
    base: str = setting("")
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
