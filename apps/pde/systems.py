"""The systems of equations: what is true, what a model is told of it, where it is posed.

| name              | equations                                                              | domain             |
|-------------------|------------------------------------------------------------------------|--------------------|
| `burgers`         | u_t = -u u_x - v u_y + nu lap u, v alike; nu = 5e-3                     | torus, hole, cuts  |
| `fitzhugh_nagumo` | u_t = lap u + u - u^3 - v + 0.01, v_t = 10 lap v + 0.25 (u - v)         | torus of side 128  |
| `gray_scott`      | u_t = D_u lap u - u v^2 + F (1 - u), v_t = D_v lap v + u v^2 - (F + k) v | torus              |
| `cells`           | u_t = D lap u - decay u between small cells with Sel'kov kinetics (v, w)  | square, four cells |
| `cylinder`        | Navier-Stokes, velocities over U, lengths over D, Re = U D / nu         | channel, cylinder  |

`known` is what PhyMPGN and PhyMPGN+ are told by default: the diffusion. `full` is the whole right-hand side where it is
local. References: Zeng et al., 2025, arXiv:2410.01337, tables A.3 and A.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from core.errors import UsageError

__all__ = ["SYSTEMS", "System", "system"]


@dataclass(frozen=True)
class System:
    """A system of equations on a domain.

    Args:
        name: of `SYSTEMS`.
        fields: names of the unknowns.
        known: field -> the terms that a model is told; a missing field has none.
        full: field -> the whole right-hand side, where it is a local expression.
        parameters: values of the names in the terms.
        shape: domain of `shapes.make`.
        size: factor from the unit shape to the domain.
        boundary: part of the boundary -> condition.
        conserved: fields whose total stays.
    """

    name: str
    fields: tuple[str, ...]
    known: Mapping[str, str]
    full: Mapping[str, str]
    parameters: Mapping[str, float]
    shape: str = "square"
    size: float = 1.0
    boundary: Mapping[str, str] = field(default_factory=dict)
    conserved: tuple[str, ...] = ()

    def on(self, shape: str) -> System:
        """Return the system on another domain, with the boundary conditions that it has there."""
        if (self.name, shape) not in ELSEWHERE and shape != self.shape:
            choices = [self.shape, *(s for n, s in ELSEWHERE if n == self.name)]
            raise UsageError(f"{self.name} is not posed there", field="shape", value=shape, choices=choices)
        return replace(self, shape=shape, boundary=ELSEWHERE.get((self.name, shape), self.boundary))


SYSTEMS = {
    "burgers": System(
        "burgers", ("u", "v"), {"u": "nu*lap(u)", "v": "nu*lap(v)"},
        {"u": "-u*dx(u) - v*dy(u) + nu*lap(u)", "v": "-u*dx(v) - v*dy(v) + nu*lap(v)"}, {"nu": 5e-3},
    ),
    "fitzhugh_nagumo": System(
        "fitzhugh_nagumo", ("u", "v"), {"u": "Du*lap(u)", "v": "Dv*lap(v)"},
        {"u": "Du*lap(u) + u - u**3 - v + alpha", "v": "Dv*lap(v) + beta*(u - v)"},
        {"Du": 1.0, "Dv": 10.0, "alpha": 0.01, "beta": 0.25}, size=128.0,
    ),
    "gray_scott": System(
        "gray_scott", ("u", "v"), {"u": "Du*lap(u)", "v": "Dv*lap(v)"},
        {"u": "Du*lap(u) - u*v**2 + F*(1 - u)", "v": "Dv*lap(v) + u*v**2 - (F + k)*v"},
        {"Du": 2e-5, "Dv": 5e-6, "F": 0.04, "k": 0.06},
    ),
    "cylinder": System(
        "cylinder", ("u", "v"), {"u": "lap(u)/Re", "v": "lap(v)/Re"},
        {"u": "-u*dx(u) - v*dy(u) + lap(u)/Re", "v": "-u*dx(v) - v*dy(v) + lap(v)/Re"}, {"Re": 200.0},
        shape="channel", size=0.5,
        boundary={"left": "dirichlet(1); dirichlet(0)", "cylinder": "dirichlet(0)", "bottom": "slip", "top": "slip",
                  "right": "free"},
    ),
}  # fmt: skip

_MADE = "(alpha*w + w*v**2)"
SYSTEMS["cells"] = System(
    "cells", ("u", "v", "w"), {"u": "D*lap(u) - decay*u"},
    {"u": "D*lap(u) - decay*u",
     "v": f"part(cell, 1)*({_MADE} - v + 2*pi*(d1*part(cell, u) - d2*v))",
     "w": f"part(cell, 1)*rate*(mu - {_MADE})"},
    {"D": 0.05, "decay": 1.0, "d1": 0.8, "d2": 0.4, "eps": 0.05, "alpha": 0.9, "mu": 1.5, "rate": 0.1},
    shape="cells", boundary=dict.fromkeys(("left", "right", "bottom", "top"), "neumann(0); free; free")
    | {f"cell_{k}": "robin(d1, eps*D, d2*v); free; free" for k in range(1, 5)},
)  # fmt: skip

ELSEWHERE: dict[tuple[str, str], dict[str, str]] = {
    ("burgers", "square"): {},
    ("burgers", "hole"): {"hole": "dirichlet(0)"},
    ("burgers", "dolphin"): {"dolphin": "dirichlet(0)"},
    ("burgers", "cuts"): dict.fromkeys(("left", "right", "cut_left", "cut_right"), "neumann(0)"),
}


def system(name: str, shape: str = "") -> System:
    """Return a system by its name, on another domain than its own where one is given.

    Raises:
        UsageError: there is none of that name, or it is not posed on that domain.
    """
    if name not in SYSTEMS:
        raise UsageError("no such system", field="system", value=name, choices=SYSTEMS)
    return SYSTEMS[name].on(shape) if shape else SYSTEMS[name]
