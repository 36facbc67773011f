"""What a residue's side chain would meet: features that a small network cannot learn from two hundred folds.

Beside dihedrals and counts (`apps.bio.protein.geometry`), computed from N, CA, C, O and the CB of an ideal alanine,
invariant to rotation and translation:

    order     hydrogen bonds at 3, 4, 5 residues and far away; helix and strand by their patterns (Kabsch and Sander,
              1983), the place within the element, the caps of helices;
    space     densities of side chains, backbone, carbonyls and amides at points around CB, on two shells and along
              CA-CB: which directions are taken and by what; a side chain is a point 1 angstrom beyond CB;
    rotamers  at the three staggered positions of a gamma atom, and 1.5 and 3 angstrom beyond: the nearest atom and
              how many lie within 5 angstrom: what room a long side chain has;
    bridge    how near a gamma atom here and one at another residue come to the length of a disulfide;
    company   the nearest CB beyond the next two residues: how far, where along the chain, how turned;
    place     distance to the ends of the chain, its length, its shares of helix and strand, how buried it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apps.bio.protein import geometry

__all__ = ["ENVIRONMENT", "LOCAL", "environment", "local"]

SHELLS, ALONG = (3.5, 6.5), (1.5, 3.0, 5.0, 7.0, 9.0)
POINTS = 12 * len(SHELLS) + len(ALONG)
CHI = (-65.0, 65.0, 180.0)
REACHES = (0.0, 1.5, 3.0)
COMPANY, FAR = 6, 30.0
CAPS = ((-2, -1, 0, 1), (-1, 0, 1, 2))
LOCAL = geometry.NODE + 8
"""Features of a residue that its neighbours along the chain read too."""

ENVIRONMENT = 6 + 8 + 4 * POINTS + 2 * COMPANY + 3 + 6 + 3 + 2 * len(CHI) * len(REACHES) + 7
"""Features of a residue alone."""


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def _bond(energy: Tensor, k: int) -> Tensor:
    """Return the energy of the bond from residue i to residue i - k, 0 where there is none, [N]."""
    found = torch.zeros(len(energy))
    found[k:] = energy.diagonal(-k)
    return found


def _runs(inside: Tensor) -> Tensor:
    """Return for members of each run their distance to its start and end and its length, all scaled, [N, 3]."""
    n = len(inside)
    place = torch.arange(n)
    start = torch.where(~inside, place + 1, 0).cummax(0).values
    end = n - 1 - torch.where(~inside.flip(0), place + 1, 0).cummax(0).values.flip(0)
    columns = [(place - start).clamp(max=6) / 6, (end - place).clamp(max=6) / 6, (end - start + 1).clamp(max=20) / 20]
    return torch.stack(columns, 1) * inside[:, None]


def _bridged(bond: Tensor) -> Tensor:
    """Return which residues lie in a bridge, parallel or not, bool [N]."""
    n = len(bond)
    padded = torch.nn.functional.pad(bond, (1, 1, 1, 1))
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")

    def at(a: int, b: int, flip: bool = False) -> Tensor:
        first, second = (j, i) if flip else (i, j)
        return padded[first + 1 + a, second + 1 + b]

    anti = (at(0, 0) & at(0, 0, True)) | (at(1, -1) & at(1, -1, True))
    side = (at(0, -1, True) & at(1, 0)) | (at(0, -1) & at(1, 0, True))
    inner = (i > 0) & (i < n - 1) & (j > 0) & (j < n - 1) & ((i - j).abs() > 2)
    return ((anti | side) & inner).any(1)


def local(node: Tensor, bonds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the LOCAL features [N, LOCAL] of `geometry.node_features`, and which residues are helix and strand."""
    n = len(node)
    energy, place = -bonds, torch.arange(n)
    back = [_bond(energy, k) for k in (4, 3)]
    turns = [torch.nn.functional.pad(b, (0, k))[k:] for b, k in zip(back, (4, 3), strict=True)]
    turn = turns[0] > 0.5
    begun = turn & torch.nn.functional.pad(turn, (1, 0))[:-1]
    helix = torch.zeros(n, dtype=torch.bool)
    for k in range(4):
        helix[k:] |= begun[: n - k]
    strand = _bridged(bonds < -0.5)
    beyond = energy * ((place[:, None] - place).abs() > 5)
    columns = [helix, strand, *back, *turns, beyond.amax(1), beyond.amax(0)]
    return torch.cat([node, torch.stack([c.to(node) for c in columns], 1)], 1), helix, strand


def _caps(helix: Tensor) -> Tensor:
    """Return which residues lie around the start and around the end of a helix, [N, 8]."""
    n = len(helix)
    wide = torch.nn.functional.pad(helix, (1, 1))
    first, last = wide[1:-1] & ~wide[:-2], wide[1:-1] & ~wide[2:]
    out = torch.zeros(n, 8)
    for row, (edge, shifts) in enumerate(zip((first, last), CAPS, strict=True)):
        for q, k in enumerate(shifts):
            where = edge.nonzero()[:, 0] + k
            out[where[(where >= 0) & (where < n)], 4 * row + q] = 1.0
    return out


def _icosahedron() -> Tensor:
    golden = (1 + math.sqrt(5)) / 2
    corners = [c for a in (-1.0, 1.0) for b in (-golden, golden) for c in ((0.0, a, b), (a, b, 0.0), (b, 0.0, a))]
    return _unit(torch.tensor(corners))


def _space(five: Tensor, axis: Tensor) -> list[Tensor]:
    """Return the densities at the points around each CB, [N, POINTS] each."""
    n, ca, c, o, cb = five.unbind(1)
    across = _unit((n - ca) - ((n - ca) * axis).sum(-1, keepdim=True) * axis)
    frame = torch.stack([across, torch.linalg.cross(axis, across), axis], 1)
    line = torch.tensor([[0.0, 0.0, r] for r in ALONG])
    points = torch.cat([*(r * _icosahedron() for r in SHELLS), line])
    where = (cb[:, None] + torch.einsum("pd,lde->lpe", points, frame)).flatten(0, 1)
    others = 1.0 - torch.eye(len(cb))

    def density(atoms: Tensor, width: float) -> Tensor:
        near = torch.exp(-torch.cdist(where, atoms).square() / (2 * width**2)).view(len(cb), POINTS, -1)
        return torch.einsum("lpn,ln->lp", near, others)

    amide, carbonyl = density(n, 1.6), density(o, 1.6)
    return [density(cb + axis, 2.2), amide + density(ca, 1.6) + density(c, 1.6) + carbonyl, carbonyl, amide]


def _gammas(five: Tensor) -> Tensor:
    """Return the staggered positions of a gamma atom, as of cysteine, [N, 3, 3]."""
    n, ca, cb = five[:, 0], five[:, 1], five[:, 4]
    axis = _unit(cb - ca)
    normal = _unit(torch.linalg.cross(ca - n, axis))
    side, bend = torch.linalg.cross(normal, axis), math.radians(114.0)
    out = []
    for chi in CHI:
        turn = math.radians(chi)
        lift = math.cos(turn) * side + math.sin(turn) * normal
        out.append(cb + 1.81 * (-math.cos(bend) * axis + math.sin(bend) * lift))
    return torch.stack(out, 1)


def _bridges(gamma: Tensor, distance: Tensor, apart: Tensor) -> Tensor:
    """Return how well the best disulfide of each residue fits, at three tolerances, [N, 3]."""
    n = len(gamma)
    length = torch.cdist(gamma.flatten(0, 1), gamma.flatten(0, 1)).view(n, 3, n, 3)
    miss = (length - 2.05).abs().amin((1, 3)) + ((distance - 3.85).abs() - 0.5).clamp_min(0)
    best = torch.where((distance < 5.0) & (apart > 2), miss, 9.0).amin(1)
    return torch.stack([torch.exp(-(best**2) / w) for w in (0.5, 0.1, 2.0)], 1)


def _room(gamma: Tensor, five: Tensor) -> Tensor:
    """Return the nearest atom and the number near each possible side-chain atom, [N, 18]."""
    n = len(five)
    atoms = five.transpose(0, 1).flatten(0, 1)
    own = torch.eye(n, dtype=torch.bool).repeat(1, 5)
    out = []
    for q in range(gamma.shape[1]):
        ahead = _unit(gamma[:, q] - five[:, 1])
        for reach in REACHES:
            d = torch.cdist(gamma[:, q] + reach * ahead, atoms).masked_fill(own, FAR)
            out += [d.amin(1), (d < 5).sum(1) / 10.0]
    return torch.stack(out, 1)


def _company(cb: Tensor, axis: Tensor, distance: Tensor, apart: Tensor) -> list[Tensor]:
    """Return how near the nearest CB are, where along the chain and how turned the first three of them are."""
    near, who = torch.where(apart > 2, distance, FAR).topk(min(COMPANY, len(cb)), 1, largest=False)
    near = torch.nn.functional.pad(near, (0, COMPANY - near.shape[1]), value=FAR)
    first = who[:, torch.arange(3).clamp(max=who.shape[1] - 1)]
    there = [(axis[:, None] * axis[first]).sum(-1), (axis[:, None] * _unit(cb[first] - cb[:, None])).sum(-1)]
    return [1 / near.clamp_min(1.0), near / 10, apart.gather(1, first).clamp(max=20) / 20, *there]


def environment(backbone: Tensor, node: Tensor, helix: Tensor, strand: Tensor) -> Tensor:
    """Return the features [N, ENVIRONMENT] of the residues of one structure.

    Args:
        backbone: N, CA, C, O, [N, 4, 3], angstrom.
        node: of `geometry.node_features`.
        helix, strand: of `local`.
    """
    five = geometry.atoms(backbone)
    ca, cb = five[:, 1], five[:, 4]
    n, axis, place = len(five), _unit(cb - ca), torch.arange(len(five))
    distance, apart = torch.cdist(cb, cb), (place[:, None] - place).abs()
    gamma = _gammas(five)
    bridge = _bridges(gamma, distance, apart)
    whole = [math.log(n) / 5, helix.float().mean(), strand.float().mean(), bridge[:, 1].sum() / 5, node[:, 24].mean()]
    ends = torch.stack([place.clamp(max=10) / 10, (n - 1 - place).clamp(max=10) / 10], 1)
    overall = torch.tensor([float(v) for v in whole]).expand(n, -1)
    parts = [_runs(helix), _runs(strand), _caps(helix), *_space(five, axis), *_company(cb, axis, distance, apart)]
    return torch.cat([*parts, bridge, _room(gamma, five), ends, overall], 1).float()
