"""What a residue sees of its surroundings: features that do not change when the molecule is turned or moved.

Of each residue the atoms N, CA, C, O are given; CB stands where an alanine has it. With the local frame
`R_i = (unit bisector, normal, their product)` of N-CA-C,

    node   phi, psi, omega and the dihedral and angle of the CA trace; numbers of CB within five radii, all around and
           in the half sphere that the side chain points to; the best hydrogen bond given and taken;
    edge   the 25 distances between the atoms of two residues in radial functions; where the other CA lies in the own
           frame and how its frame is turned; hydrogen bonds both ways.

A hydrogen bond is the electrostatic energy of Kabsch and Sander (1983), in kcal/mol; its hydrogen stands 1 angstrom
from N, against the carbonyl of the residue before. Where the chain is broken, dihedrals are absent (0, with a flag).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["CENTRES", "EDGE", "NODE", "atoms", "burial", "neighbours", "edge_features", "node_features"]

CENTRES = 10
"""Radial functions for each distance, between 2 and 20 angstrom."""

RADII = (6.0, 8.0, 10.0, 12.0, 15.0)
NODE = 21 + 2 * len(RADII)
EDGE = 25 * CENTRES + 3 + 9 + 2


def atoms(backbone: Tensor) -> Tensor:
    """Return N, CA, C, O and the CB of an ideal alanine, [N, 5, 3], of N, CA, C, O [N, 4, 3]."""
    n, ca, c = backbone[:, 0], backbone[:, 1], backbone[:, 2]
    b, d = ca - n, c - ca
    cb = ca - 0.58273431 * torch.linalg.cross(b, d) + 0.56802827 * b - 0.54067466 * d
    return torch.cat([backbone, cb[:, None]], 1)


def neighbours(backbone: Tensor, k: int) -> Tensor:
    """Return the edges from the `k` residues with the nearest CA to each residue, int64 [2, N k'] (source, target)."""
    distance = torch.cdist(backbone[:, 1], backbone[:, 1]).fill_diagonal_(torch.inf)
    near = distance.topk(min(k, len(backbone) - 1), largest=False).indices
    target = torch.arange(len(backbone), device=backbone.device)[:, None].expand_as(near)
    return torch.stack([near.flatten(), target.flatten()])


def burial(backbone: Tensor, radius: float = 10.0) -> Tensor:
    """Return the number of other CB within `radius` angstrom of each residue's CB, float [N]."""
    cb = atoms(backbone)[:, 4]
    return (torch.cdist(cb, cb) < radius).sum(-1).float() - 1


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def frames(backbone: Tensor) -> Tensor:
    """Return the local frames as rows of [N, 3, 3]."""
    n, ca, c = backbone[:, 0], backbone[:, 1], backbone[:, 2]
    first = _unit(_unit(n - ca) + _unit(c - ca))
    normal = _unit(torch.linalg.cross(n - ca, c - ca))
    return torch.stack([first, normal, torch.linalg.cross(first, normal)], 1)


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return sine and cosine of the dihedral of four points [..., 3], [..., 2]."""
    u, v, w = b - a, c - b, d - c
    n1, n2 = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    cosine, sine = (n1 * n2).sum(-1), (torch.linalg.cross(n1, _unit(v)) * n2).sum(-1)
    return -_unit(torch.stack([sine, -cosine], -1) + 1e-9)


def hydrogen_bonds(backbone: Tensor, joined: Tensor) -> Tensor:
    """Return the energies [N, N] of bonds from the amide of residue i to the carbonyl of residue j, kcal/mol."""
    n, ca, c, o = backbone.unbind(1)
    before = torch.roll(c - o, 1, 0)
    h = n + torch.where(joined[:, None], _unit(before), _unit(_unit(n - ca) + _unit(n - c)))
    r = [torch.cdist(p, q).clamp_min(0.5) for p, q in ((n, o), (h, c), (h, o), (n, c))]
    energy = 27.9 * (1 / r[0] + 1 / r[1] - 1 / r[2] - 1 / r[3])
    index = torch.arange(len(n), device=n.device)
    return energy.masked_fill((index[:, None] - index).abs() < 2, 0.0).clamp(-4.0, 0.0)


def node_features(backbone: Tensor, joined: Tensor) -> tuple[Tensor, Tensor]:
    """Return node features [N, NODE] and the hydrogen-bond energies [N, N] of one structure.

    Args:
        backbone: N, CA, C, O, [N, 4, 3], angstrom.
        joined: whether a residue is bonded to the one before it, bool [N] (False at the first).
    """
    five = atoms(backbone)
    n, ca, c, _, cb = five.unbind(1)
    back, ahead = joined, torch.roll(joined, -1)
    ahead2 = ahead & torch.roll(ahead, -1)
    bonds = hydrogen_bonds(backbone, joined)
    turn = [torch.roll(ca, s, 0) for s in (1, -1, -2)]
    angles = [
        dihedral(torch.roll(c, 1, 0), n, ca, c) * back[:, None],
        dihedral(n, ca, c, torch.roll(n, -1, 0)) * ahead[:, None],
        dihedral(torch.roll(ca, 1, 0), torch.roll(c, 1, 0), n, ca) * back[:, None],
        dihedral(turn[0], ca, turn[1], turn[2]) * (back & ahead2)[:, None],
        dihedral(torch.roll(turn[0], 1, 0), turn[0], ca, turn[1]) * (back & torch.roll(back, 1) & ahead)[:, None],
        ((_unit(turn[0] - ca) * _unit(turn[1] - ca)).sum(-1) * (back & ahead))[:, None],
        back[:, None], ahead[:, None],
    ]  # fmt: skip
    to = cb - cb[:, None]
    distance = to.norm(dim=-1).fill_diagonal_(torch.inf)
    up = (to * _unit(cb - ca)[:, None]).sum(-1) > 0
    counts = [(torch.sigmoid((r - distance) * 2) * side).sum(-1) / r**2 for r in RADII for side in (1.0, up)]
    best, partner = bonds.min(1)
    taken, giver = bonds.min(0)
    index = torch.arange(len(n), device=n.device)
    near = [(partner - index).clamp(-6, 6) / 6.0 * (best < -0.5), (giver - index).clamp(-6, 6) / 6.0 * (taken < -0.5)]
    depth = [(distance < 25).sum(-1) / 150.0, (torch.exp(-distance / 8)).sum(-1) / 10.0]
    length = [(ca - turn[0]).norm(dim=-1) / 4 * back, torch.full_like(best, math.log(len(n)) / 5)]
    values = torch.stack([*counts, best, taken, *near, *depth, *length], -1)
    return torch.cat([a.to(values) for a in angles] + [values], -1), bonds


def edge_features(backbone: Tensor, edges: Tensor, bonds: Tensor) -> Tensor:
    """Return edge features [E, EDGE] (arguments as given by `neighbours` and `node_features`)."""
    five, frame = atoms(backbone), frames(backbone)
    j, i = edges
    distance = (five[i][:, :, None] - five[j][:, None]).norm(dim=-1).flatten(1)
    centres = torch.linspace(2.0, 20.0, CENTRES, device=distance.device)
    width = 18.0 / CENTRES
    radial = torch.exp(-(((distance[..., None] - centres) / width) ** 2)).flatten(1)
    direction = torch.einsum("eab,eb->ea", frame[i], _unit(backbone[j, 1] - backbone[i, 1]))
    rotation = torch.einsum("eab,ecb->eac", frame[i], frame[j]).flatten(1)
    return torch.cat([radial, direction, rotation, bonds[i, j][:, None], bonds[j, i][:, None]], -1)
