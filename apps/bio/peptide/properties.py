"""Properties of peptides that are sums over residues, as differentiable rewards that agree with RDKit.

Charge, mass, donors and polar surface of a peptide are exactly a sum of one term for each residue, where the first and
the last residue have tables of their own (a proline gives a donor only at the start); Crippen's logP is so within 0.1.
With the tables T of a topology,

    value(x) = c + sum_i T_i[x_i],          value of laws p = c + sum_i sum_a T_i[a] p_i(a),

the second being the expectation of the first under independent residues: exact and linear. The tables are differences
of RDKit's own values, taken against glycine, so that the certified scorer and the reward cannot drift apart. Stereo
chemistry does not matter to them; a disulfide adds a constant.

GRAVY is the mean hydropathy (Kyte and Doolittle 1982), as Biopython's ProtParam gives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from apps.bio.peptide.chemistry import PROPERTIES, Peptide, properties
from apps.bio.protein.data import AMINO
from core.errors import UsageError

__all__ = ["LinearReward", "linear"]


@dataclass(frozen=True, eq=False)
class LinearReward:
    """A reward that is a sum over sites.

    Args:
        table: float64 [L, 20].
        offset: constant.
        name: of the property.
    """

    table: Tensor
    offset: float
    name: str

    def score(self, x: Tensor) -> Tensor:
        """Return the property [B], float64, of tokens `x` [B, L]."""
        return self.offset + self.table.expand(len(x), -1, -1).gather(-1, x.cpu()[..., None])[..., 0].sum(-1)

    def soft(self, p: Tensor) -> Tensor:
        """Return its expectation [B] under laws `p` [B, L, 20]."""
        return self.offset + (p * self.table.to(p)).sum((-1, -2))

    def times(self, weight: float, name: str = "") -> LinearReward:
        """Return the reward multiplied by a number."""
        return LinearReward(self.table * weight, self.offset * weight, name or self.name)


def linear(name: str, length: int, cyclic: bool = False, bridges: int = 0) -> LinearReward:
    """Return a property as a reward on peptides of one length and topology.

    Args:
        name: of `chemistry.PROPERTIES`, or `gravy`.
        length: residues L, at least 3.
        cyclic: closed head to tail.
        bridges: number of disulfides (between cysteines that the caller holds in place).

    Raises:
        UsageError: no such property, or too short.
    """
    if length < 3:
        raise UsageError("must be at least 3", field="length", value=length)
    if name == "gravy":
        from Bio.SeqUtils.ProtParamData import kd

        table = torch.tensor([kd[a] for a in AMINO], dtype=torch.float64) / length
        return LinearReward(table.expand(length, -1), 0.0, name)
    if name not in PROPERTIES:
        raise UsageError("no such property", field="reward", value=name, choices=[*PROPERTIES, "gravy"])
    k = PROPERTIES.index(name)
    first, middle, last, base = (v[..., k] for v in _tables(cyclic))
    table = np.tile(middle, (length, 1))
    if not cyclic:
        table[0], table[-1] = first, last
    glycine = base[0] + (length - 3) * (base[1] - base[0])
    offset = float(glycine + bridges * _disulfide()[k])
    return LinearReward(torch.from_numpy(table), offset, name)


@cache
def _tables(cyclic: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what replacing glycine changes at the first, a middle and the last residue, and (GGG, GGGG) themselves."""

    def value(text: str) -> np.ndarray:
        found = properties(Peptide(text, cyclic))
        return np.array([found[name] for name in PROPERTIES])

    size = 7
    base = value("G" * size)

    def at(place: int) -> np.ndarray:
        return np.stack([value("G" * place + a + "G" * (size - 1 - place)) - base for a in AMINO])

    return at(0), at(size // 2), at(size - 1), np.stack([value("GGG"), value("GGGG")])


@cache
def _disulfide() -> np.ndarray:
    """Return what closing one disulfide changes."""
    pair = [properties(Peptide("GCGGGCG", bridges=b)) for b in ((), ((1, 5),))]
    return np.array([pair[1][name] - pair[0][name] for name in PROPERTIES])
