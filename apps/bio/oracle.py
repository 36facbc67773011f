"""Oracles: regressors of measured activity, one to tune with, one to judge by, one that nothing was ever chosen with.

| role | regressor (`apps.bio.dna.regressors`) | learns from | held out |
|---|---|---|---|
| tuning | `conv`, differentiable | training part; its validation part chooses epochs and weights | test part |
| evaluation | `motifs`, kernel ridge on motif occupancies | one half of the test part's groups | the other parts |
| judge | `gapped`, ridge on gapped 3-mer pairs | the other half | the other parts |

The loci of the three are disjoint, groups (both orientations of an element) stay together, and the
held-out rows of an oracle share no group with what it learned from. Orientations are one example, with the mean of
their labels. An oracle predicts an assay; a high value is no measured activity, and the gap

    hacking gap = gain under the tuning oracle - gain under the evaluation oracle

(each in units of its own spread over real sequences) says how much of a tuned model's gain is the tuning oracle's own
error; `benchmarks/dna_oracles.py` prints it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn.functional import one_hot

from apps.bio.data import Sequences, read_lentimpra
from apps.bio.dna import regressors as kinds
from apps.bio.dna.pwms import read_motifs
from apps.bio.dna.train_conv import ConvTraining, train_conv
from apps.bio.model import LETTERS
from core.errors import CheckpointError, UsageError
from core.run import checkpoint

__all__ = [
    "KINDS", "ROLES", "Examples", "Oracle", "OracleConfig", "examples", "fit", "load", "pearson", "train", "train_verb",
]  # fmt: skip

APP = "bio-oracle"
ROLES = ("tuning", "evaluation", "judge")
KINDS = {"tuning": "conv", "evaluation": "motifs", "judge": "gapped"}
UNIT = "log2 RNA/DNA, lentiMPRA in WTC11"


@dataclass
class OracleConfig:
    """What an oracle was made of.

    Args:
        role: tuning, evaluation or judge: which loci it may learn from, and which regressor it is.
        path: the folder of the lentiMPRA files.
        motifs: MEME file of `motifs`.
        seed: all randomness.
        members, epochs: of `conv`.
        gaps: of `gapped`.
    """

    role: str
    path: str = "../shared/data/bio/dna"
    motifs: str = "../shared/data/bio/motifs/hocomoco_v12_core.meme.gz"
    seed: int = 0
    members: int = 8
    epochs: int = 20
    gaps: int = 4

    @property
    def kind(self) -> str:
        """Return the regressor of the role."""
        return KINDS[self.role]


class Oracle(nn.Module):
    """A trained regressor as a reward of DNA tokens (A 0, C 1, G 2, T 3).

    Args:
        config: what it was made of.
        body: the regressor.
        metrics: how it did where it had not learned.
        name: what it is called in tables.
    """

    letters = LETTERS["dna"]

    def __init__(self, config: OracleConfig, body: kinds.Regressor, metrics: dict[str, float], name: str = "") -> None:
        super().__init__()
        self.config, self.body, self.metrics = config, body, metrics
        self.name = name or f"lentimpra-{config.role}"
        self.unit = UNIT
        if not body.differentiable:
            self.soft = None  # type: ignore[assignment]
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def score(self, x: Tensor) -> Tensor:
        """Return the predicted activity of tokens int64 [B, L], float64 [B], the mean over both strands.

        Raises:
            UsageError: fewer letters than the regressor reads at once.
        """
        self._read(x)
        parts = [x[a : a + 256] for a in range(0, len(x), 256)]
        asked = [self.body(one_hot(p, 4).float() if self.body.differentiable else p) for p in parts]
        return torch.cat(asked).double() if asked else torch.zeros(0, dtype=torch.float64)

    def soft(self, p: Tensor) -> Tensor:
        """Return the predicted activity of laws [B, L, 4], [B]; at one-hot laws that of `score` (errors too)."""
        self._read(p)
        return self.body(p.float())

    def _read(self, x: Tensor) -> None:
        """Refuse sequences [B, L, ...] of fewer letters than the regressor reads at once."""
        least = max(self.body.words.k, kinds.ConvShape.pool) if isinstance(self.body, kinds.ConvWords) else 1
        if x.shape[1] < least:
            raise UsageError(f"reads at least {least} letters", field=self.name, value=x.shape[1])


@dataclass(frozen=True, eq=False)
class Examples:
    """One example per group.

    Args:
        tokens: int64 [N, L], one orientation.
        value: float64 [N], the mean label.
        rows: int64 [M], the example of each of the M rows read.
        labels: float64 [M], the label of each row.
    """

    tokens: Tensor
    value: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.tokens)


def read(config: OracleConfig) -> Sequences:
    """Return the labelled sequences: elements that are read in both orientations, hence oracles of both strands."""
    return read_lentimpra(Path(config.path))


def loci(data: Sequences, role: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which rows an oracle learns from, which choose its epochs and which are held out, bool [N] each."""
    mine = data.part != 2
    if role == "tuning":
        return data.part == 0, data.part == 1, ~mine
    names, place = np.unique(data.group, return_inverse=True)
    half = np.array([hashlib.blake2b(str(n).encode(), digest_size=1).digest()[0] % 2 for n in names])[place]
    train = ~mine & (half == ROLES.index(role) - 1)
    return train, np.zeros(len(train), bool), mine


def examples(data: Sequences, rows: np.ndarray) -> Examples:
    """Return the examples of some rows (bool [N]): exact strand pairs become one, with the mean of their labels."""
    x, y = data.tokens[rows], data.value[rows]
    strands = [min(a.tobytes(), b.tobytes()) for a, b in zip(x, np.ascontiguousarray(3 - x[:, ::-1]), strict=True)]
    seen: dict[bytes, int] = {}
    place = np.array([seen.setdefault(s, len(seen)) for s in strands], np.int64)
    first = np.unique(place, return_index=True)[1]
    mean = np.bincount(place, y) / np.bincount(place)
    return Examples(torch.from_numpy(x[first].astype(np.int64)), mean, place, y)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two arrays."""
    return float(np.corrcoef(a, b)[0, 1])


def collection(config: OracleConfig) -> Tensor:
    """Return the log-odds filters of the config's motifs, [M, 4, W]."""
    return kinds.bank(list(read_motifs(Path(config.motifs)).values()))


def fit(
    config: OracleConfig, train: Examples, valid: Examples, say: Callable[[str], None]
) -> tuple[kinds.Regressor, float]:
    """Return the trained regressor and the score by which its settings were chosen."""
    folds = np.random.default_rng(config.seed).permutation(len(train)) % 5
    if config.kind == "conv":
        job = ConvTraining(members=config.members, epochs=config.epochs, seed=config.seed)
        conv, _ = train_conv(job, (train.tokens, train.value), (valid.tokens, valid.value), say)
        return stacked(kinds.ConvWords(conv, fit_words(train, folds)), valid, say)
    if config.kind == "motifs":
        return fit_motifs(collection(config), train, folds)
    return fit_gapped(config.gaps, train, folds)


@torch.no_grad()
def stacked(body: kinds.ConvWords, valid: Examples, say: Callable[[str], None]) -> tuple[kinds.ConvWords, float]:
    """Weigh the two parts by least squares on validation examples, each at least 0; return the correlation there."""
    p = one_hot(valid.tokens, 4).float()
    parts = np.stack([body.conv(p).double().numpy(), body.words(p).double().numpy(), np.ones(len(p))], 1)
    mix, _ = nnls(np.concatenate([parts, -parts[:, 2:]], 1), valid.value)
    mix = np.array([mix[0], mix[1], mix[2] - mix[3]])
    body.mix.copy_(torch.from_numpy(mix))
    alone = [pearson(parts[:, j], valid.value) for j in range(2)]
    chosen = pearson(parts @ mix, valid.value)
    say(f"validation correlation: convolutions {alone[0]:.3f}, words {alone[1]:.3f}, stacked {chosen:.3f}")
    return body, chosen


def fit_words(train: Examples, folds: np.ndarray, lengths: tuple[int, ...] = (4, 5, 6)) -> kinds.Words:
    """Fit the weights of words; their length and the strength by cross-validation."""
    found = []
    for k in lengths:
        numbers = kinds.words(train.tokens, k).numpy()
        counts = np.stack([np.bincount(row, minlength=4**k) for row in numbers]).astype(np.float64)
        centred = counts - counts.mean(0)
        scale = float((centred**2).sum(1).mean())
        weight, mean, error = kinds.ridge(centred @ centred.T / scale, train.value, folds, (0.1, 0.3, 1.0, 3.0, 10.0))
        primal = centred.T @ weight / scale
        found.append((error, k, primal, mean - float(counts.mean(0) @ primal)))
    _, k, primal, centre = min(found, key=lambda f: f[0])
    body = kinds.Words(k)
    body.weight.copy_(torch.from_numpy(primal))
    body.centre.fill_(centre)
    return body


@torch.no_grad()
def fit_motifs(filters: Tensor, train: Examples, folds: np.ndarray) -> tuple[kinds.MotifKernel, float]:
    """Fit the kernel on motif occupancies; width and strength by cross-validation."""
    body = kinds.MotifKernel(len(filters), filters.shape[2], len(train))
    body.filters.copy_(filters)
    parts = [train.tokens[a : a + 64] for a in range(0, len(train), 64)]
    raw = torch.cat([body.features(one_hot(p, 4).float()) for p in parts])
    body.mean.copy_(raw.mean(0))
    body.std.copy_(raw.std(0).clamp_min(1e-3))
    body.support.copy_((raw - body.mean) / body.std)
    found = []
    for rho in (0.25, 0.5, 1.0):
        body.rho.fill_(rho)
        gram = body.kernel(body.support, body.support).double().numpy()
        found.append((*kinds.ridge(gram, train.value, folds, (0.1, 0.3, 1.0, 3.0)), rho))
    weight, mean, error, rho = min(found, key=lambda f: f[2])
    body.rho.fill_(rho)
    body.weight.copy_(torch.from_numpy(weight))
    body.centre.fill_(mean)
    return body, 1 - error


def fit_gapped(gaps: int, train: Examples, folds: np.ndarray) -> tuple[kinds.GappedKmers, float]:
    """Fit the weights of gapped words; strength by cross-validation."""
    body = kinds.GappedKmers(gaps)
    words = kinds.gapped(train.tokens, gaps).numpy()
    counts = np.stack([np.bincount(row, minlength=len(body.weight)) for row in words]).astype(np.float64)
    centred = counts - counts.mean(0)
    scale = float((centred**2).sum(1).mean())
    weight, mean, error = kinds.ridge(centred @ centred.T / scale, train.value, folds, (0.1, 0.3, 1.0, 3.0, 10.0))
    primal = centred.T @ weight / scale
    body.weight.copy_(torch.from_numpy(primal))
    body.centre.fill_(mean - float(counts.mean(0) @ primal))
    return body, 1 - error


def train(config: OracleConfig, out: Path, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Train an oracle, measure it on its held-out loci, write it to `out` and return its figures.

    Args:
        config: what to train.
        out: the folder of the oracle.
        say: hears of the progress; stderr by default.

    Raises:
        UsageError: no such role.
        DataError: the data or the motifs are missing.
    """
    if config.role not in ROLES:
        raise UsageError("no such role", field="role", value=config.role, choices=ROLES)
    checkpoint.replaceable(out)
    tell = say or (lambda line: print(line, file=sys.stderr))
    data = read(config)
    learn, choose, held = (examples(data, rows) for rows in loci(data, config.role))
    body, chosen = fit(config, learn, choose, tell)
    model = Oracle(config, body.eval(), {})
    predicted = model.score(held.tokens).numpy()
    metrics = {
        "pearson": pearson(predicted[held.rows], held.labels), "rows": float(len(held.rows)),
        "examples": float(len(learn)), "chosen_by": float(chosen), "real_mean": float(predicted.mean()),
        "real_std": float(predicted.std()), "real_95": float(np.quantile(predicted, 0.95)),
    }  # fmt: skip
    head = {"app": APP, "config": asdict(config), "step": 0, "metrics": metrics, "optimizer": None}
    checkpoint.write(out, {"weights.safetensors": model.body.state_dict()}, head)
    return {"out": str(out), "role": config.role, "kind": config.kind, **metrics}


def train_verb(role: str, *, path: str, motifs: str, seed: int, out: Path | None) -> dict[str, Any]:
    """Train an oracle as the command line asks for it (see `train`); no motifs: those of the default."""
    if role == "stability":
        from apps.bio.protein.potential import fit_verb

        return fit_verb(path=path or OracleConfig.path.replace("/dna", "/protein"), out=out)
    if role not in ROLES:
        raise UsageError("no such role", field="role", value=role, choices=(*ROLES, "stability"))
    config = OracleConfig(role, path or OracleConfig.path, seed=seed)
    config = replace(config, motifs=motifs) if motifs else config
    return train(config, out or Path("runs") / "bio" / f"oracle-{role}")


def load(path: Path | str) -> Oracle:
    """Return the oracle of a folder.

    Raises:
        CheckpointError: absent, damaged, or no oracle.
    """
    saved = checkpoint.load(path, app=APP)
    try:
        config = OracleConfig(**saved.config)
        body = empty(config, saved.weights)
        body.load_state_dict(saved.weights)
    except (TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"is no oracle of this version ({type(error).__name__})", field=str(path)) from None
    return Oracle(config, body, saved.metrics, Path(path).name)


def empty(config: OracleConfig, weights: dict[str, Tensor]) -> kinds.Regressor:
    """Return a regressor with the shapes of some weights."""
    if config.kind == "conv":
        letters = round(np.log(len(weights["words.weight"])) / np.log(4))
        return kinds.ConvWords(kinds.ConvEnsemble(config.members, kinds.ConvShape()), kinds.Words(letters))
    if config.kind == "motifs":
        (motifs, _, width), rows = weights["filters"].shape, len(weights["weight"])
        return kinds.MotifKernel(motifs, width, rows)
    return kinds.GappedKmers(config.gaps)
