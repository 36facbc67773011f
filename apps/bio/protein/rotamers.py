"""How each kind of side chain would fit at each residue: staggered rotamers built on the backbone, alone among others.

Side chains are built from ideal bond lengths and angles (angstrom, degrees), their torsions at a few usual values. Each
atom meets the atoms N, CA, C, O, CB of the nearest other residues: with r the sum of two radii (2.8 for a pair that can
bond by hydrogen), d their distance,

    clash     sum of max(0, r - d)^2,
    contact   sum of exp(-((d - r) / 1.5)^2) where d > r,
    bond      sum over pairs of donor and acceptor of exp(-((d - 2.9) / 0.35)^2),
    company   number of points 1 angstrom beyond other CB within some 5 angstrom of it: side chains not yet known.

The best rotamer has the least `4 clash - 0.1 contact - bond - 0.1 company`; its four terms and the free energy of all
rotamers are the features. Nothing is fitted here. Reference: Dunbrack and Karplus, 1994 (rotamers stagger).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from apps.bio.protein import geometry

__all__ = ["KINDS", "ROTAMERS", "fits"]

NEAR = 32
"""Residues whose atoms are met."""

STAGGERED = (-65.0, 180.0, 65.0)
RADII = {"C": 1.85, "N": 1.6, "O": 1.5, "S": 1.85}
BEYOND = {"N": 0, "CA": 1, "CB": 2}
G = "CG CB CA N 1.52 114.0 1"
RING = (
    "CD1 CG CB CA 1.39 120.7 2|CD2 CG CB CA 1.39 120.7 2+180|CE1 CD1 CG CB 1.39 120.7 180|"
    "CE2 CD2 CG CB 1.39 120.7 180|CZ CE1 CD1 CG 1.39 120.0 0"
)
BUILT = {
    "S": "OG CB CA N 1.42 110.8 1",
    "C": "SG CB CA N 1.81 113.8 1",
    "T": "OG1 CB CA N 1.43 109.2 1|CG2 CB CA N 1.52 111.1 1-120",
    "V": "CG1 CB CA N 1.52 110.5 1|CG2 CB CA N 1.52 110.5 1+122",
    "I": "CG1 CB CA N 1.53 110.4 1|CG2 CB CA N 1.52 110.5 1-122|CD1 CG1 CB CA 1.51 113.9 2",
    "L": "CG CB CA N 1.53 116.3 1|CD1 CG CB CA 1.52 110.7 2|CD2 CG CB CA 1.52 110.7 2+122",
    "M": f"{G}|SD CG CB CA 1.80 112.7 2|CE SD CG CB 1.79 100.9 3",
    "F": f"{G}|{RING}",
    "Y": f"{G}|{RING}|OH CZ CE1 CD1 1.38 119.9 180",
    "W": f"{G}|CD1 CG CB CA 1.37 126.9 2|CD2 CG CB CA 1.43 126.8 2+180|NE1 CD1 CG CB 1.37 110.2 180|"
    "CE2 CD2 CG CB 1.41 107.2 180|CE3 CD2 CG CB 1.40 133.9 0|CZ2 CE2 CD2 CG 1.39 122.4 180|"
    "CZ3 CE3 CD2 CG 1.38 118.6 180|CH2 CZ2 CE2 CD2 1.37 117.5 0",
    "H": f"{G}|ND1 CG CB CA 1.38 122.7 2|CD2 CG CB CA 1.36 131.2 2+180|CE1 ND1 CG CB 1.32 109.0 180|"
    "NE2 CD2 CG CB 1.37 107.2 180",
    "D": f"{G}|OD1 CG CB CA 1.25 118.4 2|OD2 CG CB CA 1.25 118.4 2+180",
    "N": f"{G}|OD1 CG CB CA 1.23 120.8 2|ND2 CG CB CA 1.33 116.4 2+180",
    "E": f"{G}|CD CG CB CA 1.52 112.6 2|OE1 CD CG CB 1.25 118.4 3|OE2 CD CG CB 1.25 118.4 3+180",
    "K": f"{G}|CD CG CB CA 1.52 111.3 2|CE CD CG CB 1.52 111.3 180|NZ CE CD CG 1.49 111.9 180",
    "R": f"{G}|CD CG CB CA 1.52 111.3 2|NE CD CG CB 1.46 112.0 180|CZ NE CD CG 1.33 124.2 180|"
    "NH1 CZ NE CD 1.33 120.0 0|NH2 CZ NE CD 1.33 120.0 180",
    "P": "CG CB CA N 1.49 104.5 1|CD CG CB CA 1.50 106.1 2",
}  # fmt: skip
"""Atom, parent, the two before it, bond length, angle, torsion: a number of degrees, or chi k and a shift."""

RING2 = tuple(itertools.product(STAGGERED, (-90.0, 0.0, 90.0)))
TURNED: dict[str, tuple[tuple[float, ...], ...]] = {
    **{a: tuple((v,) for v in STAGGERED) for a in "SCTV"},
    **{a: tuple(itertools.product(STAGGERED, STAGGERED)) for a in "IKR"},
    "L": ((-65.0, 175.0), (180.0, 65.0), (-85.0, 65.0), (-172.0, 145.0), (62.0, 80.0)),
    "M": tuple(itertools.product(STAGGERED, repeat=3)),
    **{a: tuple(itertools.product(STAGGERED, (60.0, 90.0, 120.0))) for a in "FY"},
    "W": RING2, "H": tuple(itertools.product(STAGGERED, (-75.0, 60.0, 165.0))),
    "D": tuple(itertools.product(STAGGERED, (-45.0, 0.0, 45.0))),
    "N": tuple(itertools.product(STAGGERED, (-40.0, 20.0, 120.0, -120.0))),
    "E": tuple(itertools.product(STAGGERED, STAGGERED, (0.0, 90.0))),
    "P": ((30.0, -40.0), (-30.0, 40.0)),
}  # fmt: skip

KINDS = tuple(BUILT)
TERMS = 5
ROTAMERS = TERMS * len(KINDS)
"""Features of a residue."""


@dataclass(frozen=True, eq=False)
class Chains:
    """The rotamers of one kind: for each atom its three predecessors, length, angle, and torsions [R]."""

    before: tuple[tuple[int, int, int], ...]
    length: tuple[float, ...]
    angle: tuple[float, ...]
    torsion: tuple[Tensor, ...]
    radius: Tensor
    polar: Tensor


@cache
def _chains(kind: str) -> Chains:
    turns, names = torch.tensor(TURNED[kind]), dict(BEYOND)
    rows = [row.split() for row in BUILT[kind].split("|")]
    before, torsion = [], []
    for atom, parent, second, third, _, _, turn in rows:
        before.append((names[third], names[second], names[parent]))
        names[atom] = len(names)
        if turn[0] in "123" and (len(turn) == 1 or turn[1] in "+-"):
            torsion.append(torch.deg2rad(turns[:, int(turn[0]) - 1] + float(turn[1:] or 0)))
        else:
            torsion.append(torch.full((len(turns),), math.radians(float(turn))))
    radius = torch.tensor([RADII[row[0][0]] for row in rows])
    polar = torch.tensor([{"N": 1, "O": 2}.get(row[0][0], 0) for row in rows])
    length, angle = (tuple(float(row[c]) for row in rows) for c in (4, 5))
    return Chains(tuple(before), length, angle, tuple(torsion), radius, polar)


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def built(kind: str, n: Tensor, ca: Tensor, cb: Tensor) -> Tensor:
    """Return the atoms beyond CB of all rotamers of a kind, [N, R, A, 3], at residues with N, CA, CB [N, 3]."""
    chains = _chains(kind)
    rows = len(chains.torsion[0])
    places = [p[:, None].expand(-1, rows, -1) for p in (n, ca, cb)]
    for (a, b, c), length, angle, torsion in zip(
        chains.before, chains.length, chains.angle, chains.torsion, strict=True
    ):
        axis = _unit(places[c] - places[b])
        normal = _unit(torch.linalg.cross(places[b] - places[a], axis))
        side, bend = torch.linalg.cross(normal, axis), math.radians(angle)
        turn = torsion[None, :, None]
        lift = torch.cos(turn) * side + torch.sin(turn) * normal
        places.append(places[c] + length * (-math.cos(bend) * axis + math.sin(bend) * lift))
    return torch.stack(places[3:], 2)


def fits(backbone: Tensor) -> Tensor:
    """Return the features [N, ROTAMERS] of N, CA, C, O, [N, 4, 3], angstrom."""
    five = geometry.atoms(backbone)
    ca, cb = five[:, 1], five[:, 4]
    count = min(NEAR, len(five) - 1)
    if not count:
        return torch.zeros(len(five), ROTAMERS)
    who = torch.cdist(cb, cb).fill_diagonal_(torch.inf).topk(count, largest=False).indices
    others = five[who].flatten(1, 2)
    centres = (cb + _unit(cb - ca))[who]
    radius = torch.tensor([RADII[a] for a in ("N", "C", "C", "O", "C")]).repeat(count)
    polar = torch.tensor([1, 0, 0, 2, 0]).repeat(count)
    parts = []
    for kind in KINDS:
        chains, atoms = _chains(kind), built(kind, five[:, 0], ca, cb)
        flat = atoms.flatten(1, 2)
        shape = (*atoms.shape[:3], -1)
        d = torch.cdist(flat, others).view(shape)
        pair = (chains.polar[:, None] * polar) == 2
        gap = torch.where(pair, 2.8, chains.radius[:, None] + radius) - d
        clash = gap.clamp_min(0).square().sum((-1, -2))
        contact = (torch.exp(-((gap / 1.5) ** 2)) * (gap < 0)).sum((-1, -2))
        bond = (torch.exp(-(((d - 2.9) / 0.35) ** 2)) * pair).sum((-1, -2))
        company = torch.sigmoid((5.0 - torch.cdist(flat, centres).view(shape)) * 2).sum((-1, -2))
        energy = 4 * clash - 0.1 * contact - bond - 0.1 * company
        best = energy.argmin(1, keepdim=True)
        terms = [v.gather(1, best)[:, 0] for v in (clash.clamp(max=9), contact / 10, bond, company / 10)]
        parts += [*terms, -torch.logsumexp(-energy.clamp(-30, 30), 1) / 3]
    return torch.stack(parts, 1)
