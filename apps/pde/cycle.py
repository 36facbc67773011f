"""A flow that recurs, as a phase on a cycle: the plain model of a wake that sheds.

    u(t) = c_0(p) + sum_k Re[c_k(p) exp(i k theta)] + exp(-rate t) d,      theta' = omega(p),

with p the parameter that varies (the Reynolds number). Each training trajectory gives its frequency, by the best fit of
the harmonics to its leading modes, and its fields c_k by least squares; both are interpolated in s(p) by the polynomial
through all of them. A start gives the phase, and what the cycle leaves of it, d, fades at the rate of one period.

What all training states obey linearly with common values, all states obey: boundary values, no weak divergence. It has
no horizon: the cycle is the same after any number of turns. It knows nothing of transients, of flows without a period,
and of other meshes, which a learned right-hand side may; where it is as accurate, the test was no more than this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from apps.pde.data import Trajectories
from apps.pde.states import Modes
from core.errors import DataError, UsageError

__all__ = ["Cycle", "fit"]

Map = Callable[[np.ndarray | float], np.ndarray | float]
SCALES: dict[str, Map] = {"p": lambda p: p, "log p": np.log, "1/p": lambda p: 1 / np.asarray(p)}
RANK, PHASES = 6, 720


@dataclass(eq=False)
class Cycle:
    """The fields of a cycle at some values of a parameter.

    Args:
        name: of the parameter.
        values: at which the cycle is known [P], ascending.
        omega: angular frequencies [P].
        waves: complex fields [P, K + 1, N, C]; phase 0 is where the leading mode's fundamental is largest.
        dt: time between states.
        scale: of `SCALES`, in which all is interpolated.
    """

    name: str
    values: np.ndarray
    omega: np.ndarray
    waves: np.ndarray
    dt: float
    scale: str = "1/p"

    def at(self, value: float) -> tuple[float, np.ndarray]:
        """Return frequency and fields [K + 1, N, C] at a value of the parameter."""
        s, x = np.asarray(SCALES[self.scale](self.values)), float(SCALES[self.scale](value))
        others = [np.delete(s, k) for k in range(len(s))]
        weight = np.array([np.prod((x - o) / (own - o)) for own, o in zip(s, others, strict=True)])
        return float(weight @ self.omega), np.tensordot(weight, self.waves, 1)

    def rollout(self, start: np.ndarray, steps: int, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the states [V, steps + 1, N, C] from starts [V, N, C]."""
        if self.name not in parameters:
            raise UsageError("is needed", field=self.name)
        out = np.empty((len(start), steps + 1, *start.shape[1:]), np.float32)
        for row, u in enumerate(np.asarray(start, np.float64)):
            omega, waves = self.at(float(parameters[self.name][row]))
            first = self.phase(u, waves)
            t = np.arange(steps + 1) * self.dt
            left = u - turned(waves, np.array([first]))[0]
            own = turned(waves, first + omega * t)
            out[row] = own + np.exp(-omega / (2 * np.pi) * t)[:, None, None] * left
        return out

    @staticmethod
    def phase(u: np.ndarray, waves: np.ndarray) -> float:
        """Return the phase whose state is nearest to u [N, C]."""
        tried = np.arange(PHASES) * 2 * np.pi / PHASES
        k = np.arange(1, len(waves))
        rest, flat = (u - waves[0].real).ravel(), waves[1:].reshape(len(k), -1)
        turns = np.exp(1j * np.outer(tried, k))
        gram = flat @ flat.conj().T, flat @ flat.T
        norm = 0.5 * np.einsum("pk,kl,pl->p", turns, gram[0], turns.conj()).real
        norm += 0.5 * np.einsum("pk,kl,pl->p", turns, gram[1], turns).real
        miss = norm - 2 * np.real(turns @ (flat @ rest))
        a, b, c = (miss[(miss.argmin() + d) % PHASES] for d in (-1, 0, 1))
        shift = 0.5 * (a - c) / max(a - 2 * b + c, 1e-300)
        return float(tried[miss.argmin()] + shift * 2 * np.pi / PHASES)


def turned(waves: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return the states of a cycle [K + 1, N, C] at phases theta [T], [T, N, C]."""
    k = np.arange(1, len(waves))
    turns, flat = np.exp(1j * np.outer(theta, k)), waves[1:].reshape(len(k), -1)
    moving = np.real(turns) @ np.real(flat) - np.imag(turns) @ np.imag(flat)
    return waves[0].real + moving.reshape(len(theta), *waves.shape[1:])


def design(omega: float, t: np.ndarray, harmonics: int) -> np.ndarray:
    """Return 1, cos k omega t, -sin k omega t as columns [T, 2 K + 1]."""
    angle = omega * np.outer(t, np.arange(1, harmonics + 1))
    return np.concatenate([np.ones((len(t), 1)), np.cos(angle), -np.sin(angle)], 1)


def frequency(z: np.ndarray, t: np.ndarray, harmonics: int) -> float:
    """Return the angular frequency at which harmonics fit coefficients z [T, R] best.

    Raises:
        DataError: there are fewer than two periods.
    """
    padded = np.abs(np.fft.rfft((z[:, 0] - z[:, 0].mean()) * np.hanning(len(t)), 8 * len(t)))
    first = 2 * np.pi * int(padded.argmax()) / (8 * len(t) * (t[1] - t[0]))
    width = np.pi / (t[-1] - t[0])
    if first < 4 * width:
        raise DataError("needs two periods at least", field="states", value=f"{t[-1]:g} units of time")

    def miss(omega: float) -> float:
        X = design(omega, t, harmonics)
        return float(np.square(z - X @ np.linalg.lstsq(X, z, rcond=None)[0]).sum())

    found = minimize_scalar(miss, bounds=(first - width, first + width), method="bounded", options={"xatol": 1e-9})
    return float(found.x)  # type: ignore[attr-defined]


def fit(data: Trajectories, harmonics: int = 8, scale: str = "") -> Cycle:
    """Return the cycle of trajectories that differ in one parameter.

    Args:
        data: trajectories that have reached their cycle.
        harmonics: K.
        scale: of `SCALES`; by default the one in which the others foretell the last trajectory best, which is an
            extrapolation and decided on training data alone.

    Raises:
        UsageError: not one parameter varies. DataError: a trajectory is too short.
    """
    varied = [k for k, v in data.parameters.items() if np.ptp(v) > 0]
    if len(varied) != 1:
        raise UsageError("must vary, one and no other", field="parameters", value=varied)
    order = np.argsort(data.parameters[varied[0]])
    values, t = data.parameters[varied[0]][order].astype(float), data.times - data.times[0]
    thinned = data.states[:, ::10].reshape(-1, *data.states.shape[2:])
    modes, omega, waves = Modes.of(thinned.astype(np.float64), RANK), [], []
    for row in order:
        states = data.states[row]
        own = frequency(modes.encode(states), t, harmonics)
        c = np.linalg.lstsq(design(own, t, harmonics), states.reshape(len(t), -1).astype(np.float64), rcond=None)[0]
        wave = np.concatenate([c[:1] + 0j, c[1 : harmonics + 1] + 1j * c[harmonics + 1 :]])
        lead = wave[1] @ modes.modes[0].ravel()
        wave *= np.exp(-1j * np.arange(harmonics + 1) * np.angle(lead))[:, None]
        omega.append(own)
        waves.append(wave.reshape(harmonics + 1, *states.shape[1:]))
    made = Cycle(varied[0], values, np.array(omega), np.stack(waves), data.dt, scale or "1/p")
    return made if scale else Cycle(made.name, values, made.omega, made.waves, data.dt, _scale(made))


def _scale(whole: Cycle) -> str:
    """Return the scale in which all but the last foretell the last one's fields and frequency best."""
    missed = {}
    for scale in SCALES:
        few = Cycle(whole.name, whole.values[:-1], whole.omega[:-1], whole.waves[:-1], whole.dt, scale)
        omega, waves = few.at(float(whole.values[-1]))
        off = np.abs(waves - whole.waves[-1]).sum() / np.abs(whole.waves[-1]).sum()
        missed[scale] = off + 10 * abs(omega / whole.omega[-1] - 1)  # of the order of ten turns are judged
    return min(missed, key=lambda k: missed[k])
