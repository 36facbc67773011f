"""The settings of inverse folding."""

from __future__ import annotations

from dataclasses import dataclass

from core.run.config import setting

__all__ = ["ProteinConfig"]


@dataclass
class ProteinConfig:
    """Inverse folding: data, network and sampling.

    `data` is the folder of the backbones, `more` one of further backbones, made beside them (`quintet bio backbones
    --beside`), that train where their cluster is not held back and never judge. `members` networks are trained, each
    without one fold of clusters; a further fold is the test part that none sees; `whole` more see all but that part.
    `dim` is the width of messages and half that of the network at a residue, `encoder` the layers of the latter,
    `decoder` the rounds of messages from known letters, `neighbours` the edges of a residue. `noise` moves the
    coordinates of each training chain once (angstrom, standard deviation), `smoothing` is the share of the target that
    is spread over similar letters, `residues` the size of a batch. `temperature`, `steps` and `solver` are defaults of
    sampling; `trust` is how much a letter that was drawn counts for its neighbours beside one that was given.
    """

    data: str = setting("../shared/data/bio/protein")
    more: str = setting("")
    members: int = setting(5, low=1)
    whole: int = setting(0, low=0)
    dim: int = setting(64, low=8)
    encoder: int = setting(1, low=1)
    decoder: int = setting(1, low=1)
    neighbours: int = setting(12, low=2)
    dropout: float = setting(0.4, low=0, high=0.9)
    noise: float = setting(0.0, low=0)
    smoothing: float = setting(0.25, low=0, high=0.9)
    residues: int = setting(400, low=30)
    temperature: float = setting(0.1, low=0.001)
    trust: float = setting(0.3, low=0, high=1)
    steps: int = setting(32, low=1)
    solver: str = setting("confidence", choices=("ancestral", "first-hitting", "confidence", "in-order", "threshold"))
