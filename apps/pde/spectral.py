"""Ground truth for periodic cases: Fourier collocation with an integrating factor and RK4 in time.

    u_t = D lap u + N(u)   ->   w = e^{D k^2 t} u^,   w_t = e^{D k^2 t} N^(u),

so that diffusion is exact and only N limits the step (Cox and Matthews, 2002; Kassam and Trefethen, 2005). Products are
formed on the grid with the upper third of the modes removed. Values between grid points are exact trigonometric sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core.errors import DataError, UsageError

__all__ = ["Spectral", "initial", "scaled_noise", "spots", "trigonometric"]

Reaction = Callable[[np.ndarray, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]], np.ndarray]


def _burgers(p: Mapping[str, float]) -> tuple[list[float], Reaction]:
    def rate(u: np.ndarray, grad: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        ux, uy = grad(u)
        return -(u[0] * ux + u[1] * uy)

    return [p["nu"]] * 2, rate


def _fitzhugh_nagumo(p: Mapping[str, float]) -> tuple[list[float], Reaction]:
    def rate(u: np.ndarray, grad: object) -> np.ndarray:
        a, b = u
        return np.stack([a - a**3 - b + p["alpha"], p["beta"] * (a - b)])

    return [p["Du"], p["Dv"]], rate


def _gray_scott(p: Mapping[str, float]) -> tuple[list[float], Reaction]:
    def rate(u: np.ndarray, grad: object) -> np.ndarray:
        a, b = u
        meet = a * b * b
        return np.stack([p["F"] * (1 - a) - meet, meet - (p["F"] + p["k"]) * b])

    return [p["Du"], p["Dv"]], rate


RATES = {"burgers": _burgers, "fitzhugh_nagumo": _fitzhugh_nagumo, "gray_scott": _gray_scott}


class Spectral:
    """A periodic solver.

    Args:
        name: of the system: burgers, fitzhugh_nagumo, gray_scott.
        parameters: of the system.
        n: grid points in each direction, even.
        size: side of the square.
    """

    def __init__(self, name: str, parameters: Mapping[str, float], n: int = 128, size: float = 1.0) -> None:
        if name not in RATES:
            raise UsageError("has no spectral solver", field="system", value=name, choices=RATES)
        self.n, self.size = n, size
        self.diffusion, self.rate = RATES[name](parameters)
        self.kx = 2 * np.pi / size * np.fft.fftfreq(n, 1 / n)[:, None]
        self.ky = 2 * np.pi / size * np.fft.rfftfreq(n, 1 / n)[None]
        modes = np.maximum(np.abs(np.fft.fftfreq(n, 1 / n))[:, None], np.fft.rfftfreq(n, 1 / n)[None])
        self.keep = modes < n / 3
        self.decay = -np.asarray(self.diffusion)[:, None, None] * (self.kx**2 + self.ky**2)

    def grid(self) -> np.ndarray:
        """Return the grid points [n, n, 2]."""
        x = np.arange(self.n) * self.size / self.n
        return np.stack(np.meshgrid(x, x, indexing="ij"), -1)

    def _nonlinear(self, hat: np.ndarray) -> np.ndarray:
        u = np.fft.irfft2(hat, s=(self.n, self.n))

        def grad(_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            both = np.fft.irfft2(np.stack([1j * self.kx * hat, 1j * self.ky * hat]), s=(self.n, self.n))
            return both[0], both[1]

        return np.fft.rfft2(self.rate(u, grad)) * self.keep

    def run(self, u: np.ndarray, dt: float, steps: int, every: int = 1, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the states after 0, every, 2 every, ... steps.

        Args:
            u: initial values on the grid [C, n, n].
            dt: time step.
            steps: number of steps, a multiple of `every`.
            every: steps between two states.
            nodes: points [N, 2] at which states are evaluated.

        Returns:
            [steps / every + 1, N, C] at nodes, or [steps / every + 1, C, n, n] on the grid.

        Raises:
            DataError: the solution is not finite: the step is beyond stability.
        """
        hat = np.fft.rfft2(u) * self.keep
        half = np.exp(self.decay * dt / 2)
        full, out = half**2, []
        read = self._reader(nodes)
        for step in range(steps + 1):
            if step % every == 0:
                out.append(read(hat))
                if not np.isfinite(out[-1]).all():
                    raise DataError("beyond stability: the solution is not finite", field="dt", value=dt)
            if step == steps:
                break
            a = self._nonlinear(hat)
            b = self._nonlinear(half * (hat + dt / 2 * a))
            c = self._nonlinear(half * hat + dt / 2 * b)
            d = self._nonlinear(full * hat + dt * half * c)
            hat = full * hat + dt / 6 * (full * a + 2 * half * (b + c) + d)
        return np.stack(out)

    def _reader(self, nodes: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
        if nodes is None:
            return lambda hat: np.fft.irfft2(hat, s=(self.n, self.n))
        rows, columns = self.keep.any(1), self.keep.any(0)
        across, along = trigonometric(nodes, self.n, self.size)
        across, along = np.ascontiguousarray(across[:, rows]), np.ascontiguousarray(along[:, columns])
        kept = np.ix_(rows, columns)
        return lambda hat: np.stack([np.einsum("nk,nk->n", across @ own[kept], along).real for own in hat], -1)


def trigonometric(nodes: np.ndarray, n: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return factors A [N, n], B [N, n/2+1] with u(x) = Re sum_k B_k (A hat)_k for `hat` of `rfft2`."""
    kx, ky = np.fft.fftfreq(n, 1 / n), np.fft.rfftfreq(n, 1 / n)
    twice = np.where((ky == 0) | (ky == n // 2), 1.0, 2.0)
    turn = 2j * np.pi / size
    return np.exp(turn * nodes[:, :1] * kx) / n**2, np.exp(turn * nodes[:, 1:] * ky) * twice


def initial(points: np.ndarray, seed: int, size: float = 1.0, modes: int = 6) -> np.ndarray:
    """Return two random band-limited fields at points [..., 2] of the torus, each at most 1: [..., 2].

    `sum_{|i|, |j| <= modes} A_ij sin(2 pi (i x + j y)) + B_ij cos(...)`, A and B standard normal, divided by the
    largest value on a fine grid (Zeng et al., 2025, appendix: Burgers).
    """
    rng = np.random.default_rng([seed, 6])
    k = np.arange(-modes, modes + 1)
    out = []
    fine = np.stack(np.meshgrid(*[np.arange(96) / 96] * 2, indexing="ij"), -1).reshape(-1, 2)
    flat = points.reshape(-1, 2) / size
    for _ in range(2):
        a, b = rng.standard_normal((2, len(k), len(k)))
        value = [np.einsum("nij,ij->n", np.exp(2j * np.pi * (p[:, :1, None] * k[:, None] + p[:, 1:, None] * k)),
                           b - 1j * a).real for p in (fine, flat)]  # fmt: skip
        out.append((value[1] / np.abs(value[0]).max()).reshape(points.shape[:-1]))
    return np.stack(out, -1)


def scaled_noise(n: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Return Gaussian noise on the grid [2, n, n]."""
    return scale * np.random.default_rng([seed, 7]).standard_normal((2, n, n))


def spots(n: int, seed: int, size: float = 1.0, count: int = 12, radius: float = 0.06) -> np.ndarray:
    """Return Gray-Scott's start on the grid [2, n, n]: u = 1, v = 0 but for smooth spots of u = 1/2, v = 1/4."""
    rng = np.random.default_rng([seed, 8])
    x = np.arange(n) / n
    bump = np.zeros((n, n))
    for cx, cy in rng.uniform(size=(count, 2)):
        dx, dy = (x - cx + 0.5) % 1 - 0.5, (x - cy + 0.5) % 1 - 0.5
        bump = np.maximum(bump, np.exp(-(((dx[:, None] ** 2 + dy[None] ** 2) / radius**2) ** 2)))
    return np.stack([1 - 0.5 * bump, 0.25 * bump])
