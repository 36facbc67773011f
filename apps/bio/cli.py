"""The command line of the bio app: `quintet bio VERB`.

Each verb imports the module that does its work only when it runs. The words of the constraint vocabulary are handed
on as they were typed, in one dictionary (`rules`); `apps.bio.design` reads them.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from core.run.cli import Json, Out, build, emit

Model = Annotated[str, typer.Argument(help="A model that ships (peptide, protein, toy), or the folder of a run.")]
Number = Annotated[int, typer.Option("-n", help="Sequences.", min=1)]
Length = Annotated[int | None, typer.Option("--length", help="Letters; by default those of the training.", min=1)]
Seed = Annotated[int, typer.Option("--seed", help="All randomness.", min=0)]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampling steps per block.", min=1)]
Block = Annotated[int | None, typer.Option("--block", help="Letters per block; 0 for the whole sequence.", min=0)]
Solver = Annotated[
    str | None, typer.Option("--solver", help="ancestral, first-hitting, confidence, in-order or remask.")
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="Below 1: likelier sequences; else the recipe's.", min=0.01)
]
Start = Annotated[str, typer.Option("--start", help="A sequence to fill in: ? is open, letters stay.")]
Template = Annotated[Path | None, typer.Option("--template", help="FASTA, GenBank or PDB file to design in.")]
Forbid = Annotated[list[str] | None, typer.Option("--forbid", help="Enzyme or IUPAC motif, both strands; repeat.")]
Require = Annotated[list[str] | None, typer.Option("--require", help="IUPAC motif or enzyme site; repeat for more.")]
Run = Annotated[int | None, typer.Option("--homopolymer", help="Longest run of one letter.", min=1)]
Gc = Annotated[list[str] | None, typer.Option("--gc", help="LO-HI or LO-HI/WINDOW, such as 0.4-0.6/50; repeat.")]
Fix = Annotated[list[str] | None, typer.Option("--fix", help="POSITION:LETTERS, counted from 1; repeat.")]
Keep = Annotated[list[str] | None, typer.Option("--keep", help="FIRST-LAST of the template, or selectors A1-6,A23.")]
Frame = Annotated[list[str] | None, typer.Option("--frame", help="START:PROTEIN or START:PROTEIN:CODE; repeat.")]
Alphabet = Annotated[str, typer.Option("--alphabet", help="The only letters allowed.")]
Spacing = Annotated[list[str] | None, typer.Option("--spacing", help="MOTIF,MOTIF,LO-HI letters between; repeat.")]
Reward = Annotated[
    list[str] | None, typer.Option("--reward", help="Oracle folder, reward name or module:callable, =WEIGHT; repeat.")
]
Steer = Annotated[str, typer.Option("--steering", help="best-of-n, classifier, smc, tds, svdd, gilc, gilc-black-box.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="Reward units per nat, of a steering.", min=1e-9)]
Asks = Annotated[int | None, typer.Option("--asks", help="Steps at which a steering asks the reward.", min=1)]
Strength = Annotated[
    float | None, typer.Option("--strength", help="Of a tuned model: its alpha over this; 1 as tuned.", min=0)
]
Topology = Annotated[str, typer.Option("--topology", help="Peptides as molecules: linear, cyclic or disulfide.")]
Fold = Annotated[str, typer.Option("--fold", help="Your folding program for proteins, with {fasta} and {out}.")]
Price = Annotated[int, typer.Option("--price", help="Particles for the full price of each rule; 0: a guess.", min=0)]
Files = Annotated[list[Path], typer.Argument(help="FASTA, GenBank, TSV or JSON files of sequences.")]

EXAMPLES = {
    "sample": "sample toy -n 20 --temperature 0.9 --out designs.fasta",
    "design": "design toy -n 20 --forbid BsaI --require TATAWAW --gc 0.4-0.6 --out designs.fasta",
    "finetune": 'finetune toy --reward "gc()" --updates 50 --out runs/tuned',
    "score": 'score designs.fasta --reward "tm()" --model toy --out scores.tsv',
    "oracle": "oracle tuning --out runs/bio/oracle-tuning",
    "backbones": "backbones structures/*.pdb --out backbones",
    "audit": "audit designs.fasta --forbid BsaI --out audit.json",
    "report": "report designs.fasta --out report.html",
}

app = build(
    "bio",
    summary="DNA, protein and peptide design: hard rules always hold, rewards are judged by others.",
    examples=EXAMPLES,
)


def show(result: Any, as_json: bool) -> None:
    """Print what a verb returns, unless it has printed its result itself (None)."""
    if result is not None:
        emit(result, as_json)


@app.command()
def sample(
    model: Model, n: Number = 8, length: Length = None, start: Start = "", seed: Seed = 0, steps: Steps = None,
    block: Block = None, solver: Solver = None, temperature: Temperature = None, strength: Strength = None,
    topology: Topology = "", out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Draw sequences. --out FILE writes .fasta, .gb, .tsv, .json, peptides .sdf, .smi, .helm; else FASTA to stdout."""
    from apps.bio import verbs

    settings = {"steps": steps, "block": block, "solver": solver, "temperature": temperature}
    show(verbs.sample(model, n=n, length=length, start=start, seed=seed, settings=settings, out=out,
                      topology=topology, strength=strength), json)  # fmt: skip


@app.command()
def evaluate(
    model: Model,
    n: Annotated[int, typer.Option("-n", help="At most so many held-out sequences, and as many samples.", min=1)] = 640,
    draws: Annotated[int, typer.Option("--draws", help="Monte Carlo draws of the evidence bound.", min=1)] = 8,
    seed: Seed = 0, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Judge a model: held-out evidence bound beside Markov chains; k-mers, GC, diversity, novelty of its samples."""
    from apps.bio import verbs

    show(verbs.evaluate(model, n=n, draws=draws, seed=seed, out=out), json)


@app.command()
def design(
    model: Model, n: Number = 8, length: Length = None, template: Template = None, forbid: Forbid = None,
    require: Require = None, homopolymer: Run = None, gc: Gc = None, fix: Fix = None, keep: Keep = None,
    frame: Frame = None, alphabet: Alphabet = "", spacing: Spacing = None, reward: Reward = None,
    steering: Steer = "", alpha: Alpha = None, asks: Asks = None, seed: Seed = 0, steps: Steps = None,
    temperature: Temperature = None, strength: Strength = None, topology: Topology = "", fold: Fold = "",
    price: Price = 8, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Design sequences under hard rules, maybe steered to a reward; infeasible rules are refused before sampling."""
    from apps.bio.design import design as work

    rules = {"forbid": forbid, "require": require, "homopolymer": homopolymer, "gc": gc, "fix": fix, "keep": keep,
             "frame": frame, "alphabet": alphabet, "spacing": spacing}  # fmt: skip
    settings = {"steps": steps, "temperature": temperature}
    show(work(model, rules={k: v for k, v in rules.items() if v}, n=n, length=length, template=template, reward=reward,
              steering=steering, seed=seed, settings=settings, out=out, topology=topology,
              fold=fold, price=price, strength=strength, options={"alpha": alpha, "asks": asks}), json)  # fmt: skip


@app.command()
def finetune(
    model: Model, reward: Reward = None,
    method: Annotated[str, typer.Option("--method", help="drakes, distill, sdpo or reward-weighted.")] = "drakes",
    alpha: Annotated[float, typer.Option("--alpha", help="Price of leaving the model, per nat.", min=0)] = 0.05,
    updates: Annotated[int, typer.Option("--updates", help="Gradient steps.", min=1)] = 200,
    batch: Annotated[int, typer.Option("--batch", help="Sequences of a step.", min=1)] = 32,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate.", min=0)] = 1e-3,
    steps: Annotated[int, typer.Option("--steps", help="Sampling steps of a path.", min=1)] = 16,
    truncate: Annotated[int, typer.Option("--truncate", help="Last steps that DRAKES differentiates.", min=1)] = 4,
    warm: Annotated[int, typer.Option("--warm", help="Reward gradients of a warm start of DRAKES.", min=0)] = 0,
    hold: Annotated[float, typer.Option("--hold", help="DRAKES: reward units per squared nat lost.", min=0)] = 0.0,
    template: Template = None, keep: Keep = None, seed: Seed = 0, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Tune a model to a reward and write the tuned checkpoint to --out."""
    from apps.bio.tune import finetune as work

    show(work(model, reward=reward, method=method, alpha=alpha, updates=updates, batch=batch, lr=lr, steps=steps,
              truncate=truncate, warm=warm, hold=hold, seed=seed, out=out, template=template,
              keep=keep), json)  # fmt: skip


@app.command()
def score(
    files: Files, reward: Reward = None,
    model: Annotated[str, typer.Option("--model", help="A model: its nats per letter of each sequence.")] = "",
    template: Template = None, seed: Seed = 0, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Score sequences by rewards, oracles and a model's likelihood; a line for each, as TSV."""
    from apps.bio.score import score as work

    show(work(files, reward=reward, model=model, seed=seed, out=out, template=template), json)


@app.command()
def oracle(
    role: Annotated[str, typer.Argument(help="tuning, evaluation, judge (activity), or stability (ddg).")],
    path: Annotated[str, typer.Option("--path", help="Folder of lentiMPRA files, or of protein data.")] = "",
    motifs: Annotated[str, typer.Option("--motifs", help="MEME file that the evaluation oracle knows.")] = "",
    seed: Seed = 0, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Train an oracle of activity or stability (default --out: runs/bio/oracle-ROLE)."""
    from apps.bio.oracle import train_verb as work

    show(work(role, path=path, motifs=motifs, seed=seed, out=out), json)


@app.command()
def backbones(
    files: Annotated[list[Path], typer.Argument(help="PDB or mmCIF files, plain or .gz.")],
    out: Annotated[Path, typer.Option("--out", help="The folder that is written.")],
    beside: Annotated[Path | None, typer.Option("--beside", help="A set whose clusters the chains may join.")] = None,
    shortest: Annotated[int, typer.Option("--shortest", help="Least residues of a chain.", min=1)] = 30,
    longest: Annotated[int, typer.Option("--longest", help="Most residues of a chain.", min=1)] = 500,
    expect: Annotated[float, typer.Option("--expect", help="Chance matches of a relative (E-value).", min=0)] = 0.01,
    json: Json = False,
) -> None:
    """Make a set of backbones from PDB and mmCIF files, clustered by sequence, for training inverse folding."""
    from apps.bio.protein.collect import backbones as work

    show(work(files, beside=beside, shortest=shortest, longest=longest, expect=expect, out=out), json)


@app.command()
def audit(
    files: Files, forbid: Forbid = None, require: Require = None, homopolymer: Run = None, gc: Gc = None,
    fix: Fix = None, keep: Keep = None, frame: Frame = None, alphabet: Alphabet = "", spacing: Spacing = None,
    template: Template = None, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Check sequences against rules by other code than made them: Biopython and regular expressions."""
    from apps.bio.audit import audit as work

    rules = {"forbid": forbid, "require": require, "homopolymer": homopolymer, "gc": gc, "fix": fix, "keep": keep,
             "frame": frame, "alphabet": alphabet, "spacing": spacing}  # fmt: skip
    show(work(files, rules={k: v for k, v in rules.items() if v}, template=template, out=out), json)


@app.command()
def report(
    files: Files,
    reference: Annotated[Path | None, typer.Option("--reference", help="Real sequences to compare with.")] = None,
    model: Annotated[str, typer.Option("--model", help="The model they came from: its nats per letter.")] = "",
    reward: Reward = None, seed: Seed = 0, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Write an HTML report: k-mers, GC, motifs, diversity, novelty, rewards, a composition-matched control."""
    from apps.bio.report import report as work

    show(work(files, reference=reference, model=model, reward=reward, seed=seed, out=out), json)
