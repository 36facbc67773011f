"""The command line of the nas app: `quintet nas VERB`."""

from pathlib import Path
from typing import Annotated

import typer

from core.run.cli import Json, Out, build, emit

Model = Annotated[str, typer.Argument(help="A model that ships (toy), or the folder of a run.")]
Count = Annotated[int, typer.Option("-n", help="How many.", min=1)]
Seed = Annotated[int, typer.Option("--seed", help="All randomness.", min=0)]
Forbid = Annotated[list[str] | None, typer.Option("--forbid", help="Operation that must not occur; repeat.")]
Require = Annotated[list[str] | None, typer.Option("--require", help="Operation that must, or OPERATION:COUNT.")]
Fix = Annotated[list[str] | None, typer.Option("--fix", help='Given part: "0-3=skip_connect", "2=maxpool3x3".')]
MaxParams = Annotated[float | None, typer.Option("--max-params", help="At most so many million parameters.")]
MaxFlops = Annotated[float | None, typer.Option("--max-flops", help="At most so many million FLOPs.")]
MinDepth = Annotated[int, typer.Option("--min-depth", help="Longest path, in operations that compute: at least.")]
MaxDepth = Annotated[int | None, typer.Option("--max-depth", help="At most.")]
MaxEdges = Annotated[int | None, typer.Option("--max-edges", help="At most so many edges.")]
LimitOf = Annotated[list[str] | None, typer.Option("--limit", help='Cost of the space: "RESOURCE<=NUMBER"; repeat.')]
Reward = Annotated[
    str,
    typer.Option(
        "--reward",
        help="digits:valid, nb201:COLUMN, train:DATA:EPOCHS, proxy:nwot, module:callable; -A; A=70; A,B; 7*A+3*B.",
    ),
]
Budget = Annotated[int, typer.Option("--budget", help="Unique evaluations.", min=1)]
Tables = Annotated[str, typer.Option("--tables", help="Folder of the real tables.")]
FOLDER = "../shared/data/nas"

EXAMPLES = {
    "sample": "sample toy -n 5 --max-params 0.4 --require avg_pool_3x3 --fix 0-3=skip_connect",
    "search": "search toy --reward digits:valid --budget 100 --out out/search",
    "evaluate": "evaluate toy --budget 50 --seeds 2 --json",
    "pareto": "pareto toy --cost flops --budget 200 --out front.json",
    "export": "export 333132 --space nb201 --out cell.py",
    "table": "table --part 0/2 --limit 10",
}

app = build(
    "nas",
    summary="Neural architectures: valid cells, hard limits, and the best ones in few queries.",
    examples=EXAMPLES,
)


@app.command()
def sample(
    model: Model, n: Count = 8, forbid: Forbid = None, require: Require = None, fix: Fix = None,
    max_params: MaxParams = None, max_flops: MaxFlops = None, min_depth: MinDepth = 0, max_depth: MaxDepth = None,
    max_edges: MaxEdges = None, limit: LimitOf = None, seed: Seed = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampling steps.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Below 1: safer.", min=0.01)] = None,
    out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Draw valid cells within limits (--out FILE.txt or .jsonl; without it they go to stdout)."""
    from apps.nas import verbs

    asked = verbs.wishes(
        forbid=forbid, require=require, fix=fix, max_params=max_params, max_flops=max_flops, min_depth=min_depth,
        max_depth=max_depth, max_edges=max_edges, limit=limit,
    )  # fmt: skip
    settings = {"steps": steps, "temperature": temperature}
    result = verbs.sample(model, asked, n=n, seed=seed, settings=settings, out=out)
    if result is not None:
        emit(result, json)


@app.command()
def search(
    model: Model = "toy", reward: Reward = "digits:valid", budget: Budget = 100,
    method: Annotated[str, typer.Option("--method", help="guided, policy, or a baseline.")] = "guided",
    forbid: Forbid = None, require: Require = None, fix: Fix = None, max_params: MaxParams = None,
    max_flops: MaxFlops = None, min_depth: MinDepth = 0, max_depth: MaxDepth = None, max_edges: MaxEdges = None,
    limit: LimitOf = None,
    scouts: Annotated[int, typer.Option("--scouts", help="Of the budget, beyond the limits, to learn.", min=0)] = 0,
    seed: Seed = 0, tables: Tables = FOLDER, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Find the best cell within limits for few evaluations (--out FOLDER: queries, module, tuned policy)."""
    from apps.nas import verbs

    asked = verbs.wishes(
        forbid=forbid, require=require, fix=fix, max_params=max_params, max_flops=max_flops, min_depth=min_depth,
        max_depth=max_depth, max_edges=max_edges, limit=limit,
    )  # fmt: skip
    emit(verbs.search(model, asked, reward=reward, method=method, budget=budget, seed=seed, out=out, folder=tables,
                      scouts=scouts), json)  # fmt: skip


@app.command()
def evaluate(
    model: Model = "toy", reward: Reward = "digits:valid", budget: Budget = 100,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each search.", min=1)] = 5, tables: Tables = FOLDER,
    json: Json = False,
) -> None:  # fmt: skip
    """Compare all searches at one budget."""
    from apps.nas import verbs

    emit(verbs.evaluate(model, reward=reward, budget=budget, seeds=seeds, folder=tables), json)


@app.command()
def export(
    cell: Annotated[str, typer.Argument(help="A cell as text, or the digits of its tokens.")],
    space: Annotated[str, typer.Option("--space", help="nb201, nb101, nb101-5, chain, or FILE.yaml.")] = "nb201",
    out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Describe a cell, or write it (--out FILE: .txt .dot .json .png .svg .py .pt2 .onnx)."""
    from apps.nas import verbs
    from apps.nas.space import load

    emit(verbs.export(load(space), cell, out), json)


@app.command()
def pareto(
    model: Model = "toy", reward: Reward = "digits:valid",
    cost: Annotated[str, typer.Option("--cost", help="Less is better: flops, params, hw:COLUMN.")] = "flops",
    budget: Budget = 300, forbid: Forbid = None, require: Require = None, seed: Seed = 0, tables: Tables = FOLDER,
    out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Find the front of a reward against a cost (--out FILE.json; without it the cells go to stdout)."""
    from apps.nas import verbs

    asked = verbs.wishes(forbid=forbid, require=require)
    found = verbs.pareto(model, asked, reward=reward, cost=cost, budget=budget, seed=seed, folder=tables, out=out)
    for row in () if json else found.pop("cells", ()):
        print(f"{row[reward]:.4f}  {row[cost]:.4f}  {row['cell']}")
    emit(found, json)


@app.command()
def table(
    folder: Annotated[Path, typer.Option("--folder", help="Where the parts lie.")] = Path("data/nas-digits"),
    part: Annotated[str, typer.Option("--part", help="I/N: the I-th of N processes.")] = "0/1",
    limit: Annotated[int, typer.Option("--limit", help="Stop after so many trainings (0: never).", min=0)] = 0,
    out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Train our own benchmark on digits, or go on where it stopped; --out FILE.csv.gz joins the parts."""
    from apps.nas import verbs

    emit(verbs.table(folder, part, limit, out), json)
