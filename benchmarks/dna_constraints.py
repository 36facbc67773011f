"""Hard rules hold: 10,000 designs of 200 letters under a full cloning specification, judged by other code.

Six enzymes on both strands, no run above five, two fixed primers, two required IUPAC motifs, an open reading frame with
a fixed translation, 40 to 60 % of G and C. The designs are judged by `apps.bio.audit` (Bio.Restriction, Bio.Seq,
regular expressions), which shares no code with the compiler; the same judge finds what is wrong with unconstrained
samples. Time is CPU time of one thread, chunk by chunk in turns with unconstrained sampling by the same denoiser.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from apps.bio import audit, constraints
from benchmarks.harness import Bar, Result
from core.constrain.accept import log_accept
from core.constrain.automaton import count
from core.errors import CheckpointError, InfeasibleError

__all__ = ["run"]

LENGTH, DESIGNS, CHUNK, STEPS, TIMED = 200, 10_000, 250, 16, 6
ENZYMES = ("BsaI", "BsmBI", "EcoRI", "BamHI", "XhoI", "NotI")
PRIMERS = ("ACGTTGCAATGCCTAGCATG", "TGACCTGAAGTCATCGGATT")
PROTEIN = "MSKGEELFTGVVPILVELD*"


def rules() -> list[Any]:
    """Return the specification."""
    return [
        constraints.forbid(*ENZYMES), constraints.homopolymer(5), constraints.fix(1, PRIMERS[0]),
        constraints.fix(LENGTH - 19, PRIMERS[1]), constraints.require("TATAWAW", "TGASTCA"),
        constraints.frame(101, PROTEIN), constraints.gc(0.4, 0.6),
    ]  # fmt: skip


def infeasible() -> dict[str, list[Any]]:
    """Return specifications that no sequence obeys: the full one and a rule that it contradicts."""
    c = constraints
    more = {
        "a required site is forbidden": [c.require("GGTCTC")],
        "a fixed site is forbidden": [c.fix(50, "GAATTC")],
        "GC bounds exclude each other": [c.gc(0.65, 0.8)],
        "a fixed letter breaks a codon": [c.fix(103, "C")],
        "a motif needs a letter that is not allowed": [c.alphabet("ACG", (21, 100)), c.alphabet("ACG", (161, 180))],
        "a spacing leaves no room": [c.spacing("TTGACA", "TATAAT", 15, 19, within=(24, 49))],
        "more motifs than fit": [c.require("TGASTCA", count=40)],
    }
    return {name: [*rules(), *extra] for name, extra in more.items()}


def denoiser() -> tuple[Any, str]:
    """Return a trained model, or an untrained network of the same shape as the toy recipe's."""
    from apps import bio

    for name in ("lentimpra", "toy"):
        try:
            return bio.load(name), f"the model {name}"
        except CheckpointError:
            continue
    from apps.bio.dna.network import build
    from apps.bio.generate import SequenceModel
    from apps.bio.model import ModelConfig, Recipe

    torch.manual_seed(0)
    recipe = Recipe(kind="dna", model=ModelConfig(dim=48, depth=4, dilations=[1, 2, 4, 8], order=0))
    return SequenceModel(build(recipe.model, 4), recipe), "an untrained network of the toy's shape"


def timed(model: Any, specs: list[Any], chunk: int) -> tuple[Any, float]:
    """Return (designs, CPU seconds) of one chunk."""
    began = time.process_time()
    index = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK)
    found = model.sample(CHUNK, length=LENGTH, constraints=specs, steps=STEPS, seed=0, index=index)
    return found, time.process_time() - began


def refusals() -> tuple[dict[str, str], float]:
    """Return the reason given for each infeasible specification, and the slowest refusal in seconds."""
    reasons, slowest = {}, 0.0
    for name, specs in infeasible().items():
        began = time.process_time()
        try:
            constraints.compile_(specs, LENGTH)
            reasons[name] = "NOT REFUSED"
        except InfeasibleError as error:
            reasons[name] = str(error)
        slowest = max(slowest, time.process_time() - began)
    return reasons, slowest


def costs(sequences: list[str]) -> dict[str, float]:
    """Return nats that each rule, and all together, cost under the order-2 chain of unconstrained samples."""
    tokens = np.array([["ACGT".index(c) for c in s] for s in sequences])
    chain = count(tokens, 4, 2)
    out = {}
    parts = constraints.atoms(rules(), LENGTH, "ACGT")
    for atom in parts:
        layers = constraints.assemble([atom], LENGTH, 4)
        out[atom.name] = -log_accept(layers, chain) if layers is not None else float("inf")
    out["all together"] = -log_accept(constraints.compile_(rules(), LENGTH).layers, chain)
    return {k: round(v, 4) for k, v in out.items()}


def run(full: bool = False) -> Result:
    """Run the benchmark."""
    model, which = denoiser()
    constraints.compile_(rules(), LENGTH)
    began = time.process_time()
    law = constraints.compile_(rules(), LENGTH)
    compiling = time.process_time() - began
    _ = timed(model, rules(), 0), timed(model, [], 0)  # compiled code is loaded
    designs, free, ratios, spent = [], [], [], 0.0
    for chunk in range(DESIGNS // CHUNK):
        found, seconds = timed(model, rules(), chunk)
        designs, spent = designs + found.sequences, spent + seconds
        if chunk < (DESIGNS // CHUNK if full else TIMED):
            unruled, other = timed(model, [], chunk)
            free, ratios = free + unruled.sequences, [*ratios, seconds / other]
    findings, control = audit.check(designs, rules()), audit.check(free, rules())
    broken = sum(f.violations for f in findings)
    reasons, slowest = refusals()
    named = sum("NOT" not in r for r in reasons.values())
    slow = statistics.median(ratios)
    figures = {
        "violations": broken, "designs": len(designs), "distinct": len(set(designs)), "slowdown": slow,
        "slowdown_chunks": ratios, "cpu_seconds_of_all": spent, "states": len(law.layers.delta),
        "widest_layer": int(np.diff(law.layers.ptr).max()), "compile_seconds": compiling,
        "refusal_seconds_slowest": slowest, "refused": named, "infeasible": len(reasons), "reasons": reasons,
        "nats": costs(free), "audit": {f.rule: f.violations for f in findings},
    }  # fmt: skip
    bars = [
        Bar("DNA rules: designs made and judged", len(designs), ">=", DESIGNS),
        Bar("DNA rules: violations among 10,000 designs, by an independent checker", broken, "==", 0),
        Bar("DNA rules: time beside unconstrained sampling with the same denoiser", slow, "<=", 3),
        Bar("DNA rules: slowest refusal of an infeasible specification, s", slowest, "<", 1),
        Bar("DNA rules: infeasible specifications refused", named, "==", len(reasons)),
    ]
    units = {"slowdown": "CPU time, ratio, median over chunks", "nats": "-log P(rule) under the order-2 chain",
             "compile_seconds": "CPU s, Bio.Restriction already read"}  # fmt: skip
    peers = {"unconstrained": {f.rule: f.violations for f in control}, "unconstrained_sequences": len(free)}
    notes = f"Denoiser: {which}; {STEPS} steps, {LENGTH} letters, ancestral; the joint law is the conditioned product."
    return Result(figures, bars, units, peers, 0, notes)
