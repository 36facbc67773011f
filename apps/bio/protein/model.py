"""Inverse folding as masked diffusion on a graph of residues.

A backbone is a graph whose nodes are residues and whose edges join each residue to its nearest neighbours. With `x_t`
a sequence of which some letters are masked, the network gives at every masked site

    D_i(a) = p(x_i = a | x_t, backbone),

from rounds of message passing: the **encoder** reads the structure alone (once per backbone), the **decoder** reads
its result and the noisy sequence (once per step). Features are invariant to rotation and translation.

One recipe trains several **members** of the same shape, cross-fitted: member k never sees the clusters of fold k. A
protein of fold k is read by member k alone; one of no fold (the test clusters, anything new) by the mean of all.

References: Ingraham et al., 2019 (graph features of backbones); Dauparas et al., 2022, doi 10.1126/science.add2187
(atom-pair distances, coordinate noise); Wang et al., 2024, arXiv:2410.13643 (masked diffusion for inverse folding).
"""

from __future__ import annotations

from dataclasses import dataclass

from core.run.config import setting

__all__ = ["ProteinConfig"]


@dataclass
class ProteinConfig:
    """Inverse folding: data, network and sampling.

    `data` is the folder of the backbones. `members` networks are trained, each without one fold of clusters; a further
    fold is the test part that none sees. `dim`, `encoder`, `decoder` are width and rounds of message passing,
    `neighbours` the edges of a residue. `noise` is added to training coordinates (standard deviation, angstrom).
    `residues` is the size of a batch. `temperature`, `steps` and `solver` are defaults of sampling.
    """

    data: str = setting("../shared/data/bio/protein")
    members: int = setting(5, low=1)
    dim: int = setting(96, low=8)
    encoder: int = setting(2, low=1)
    decoder: int = setting(2, low=1)
    neighbours: int = setting(24, low=2)
    dropout: float = setting(0.1, low=0, high=0.9)
    noise: float = setting(0.05, low=0)
    residues: int = setting(1200, low=30)
    temperature: float = setting(0.1, low=0.001)
    steps: int = setting(32, low=1)
    solver: str = setting("confidence", choices=("ancestral", "first-hitting", "confidence", "in-order", "threshold"))
