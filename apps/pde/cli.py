"""The command line of the pde app: `quintet pde VERB`."""

from pathlib import Path
from typing import Annotated

import typer

from core.run.cli import Json, Out, build, emit

Model = Annotated[str, typer.Argument(help="A model that ships (toy), or the folder of a run.")]
Seed = Annotated[int, typer.Option("--seed", help="All randomness.", min=0)]
Steps = Annotated[int, typer.Option("--steps", help="Steps of the model.", min=1)]
Every = Annotated[int, typer.Option("--every", help="Keep every so many.", min=1)]
Row = Annotated[int, typer.Option("--row", help="Test trajectory.", min=0)]
MeshFile = Annotated[str, typer.Option("--mesh", help="Another mesh than that of the training: a file.")]

EXAMPLES = {
    "sample": "sample runs/pde/toy -n 4 --out fields.xdmf",
    "evaluate": "evaluate runs/pde/toy --json",
    "rollout": "rollout runs/pde/toy --steps 60 --members 8 --out fields.xdmf",
    "simulate": "simulate burgers --out burgers.npz",
    "mesh": "mesh part.msh --json",
    "validate": "validate runs/pde/toy --row 0",
    "report": "report runs/pde/toy --out report",
    "calibrate": "calibrate runs/pde/toy",
    "assimilate": "assimilate toy --sensors 24 --noise 0.05 --out found.xdmf",
}

app = build(
    "pde",
    summary="Fields on irregular meshes: known physics, learned rest, exact boundaries.",
    examples=EXAMPLES,
)


@app.command()
def sample(
    model: Model, n: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 4, steps: Steps = 20,
    seed: Seed = 0, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Draw states: random initial fields of the recipe's law, some steps later (--out .xdmf, .pvd, .npz)."""
    from apps.pde import verbs

    emit(verbs.sample(model, n=n, steps=steps, seed=seed, out=out), json)


@app.command()
def rollout(
    model: Model, steps: Steps = 100, every: Every = 1,
    row: Annotated[int, typer.Option("--row", help="Test trajectory whose start is taken.", min=0)] = 0,
    members: Annotated[int, typer.Option("--members", help="Members of a calibrated ensemble.", min=1)] = 1,
    noise: Annotated[float, typer.Option("--noise", help="Noise of their starts, relative.", min=0)] = 0.0,
    seed: Seed = 0, mesh: MeshFile = "", out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Roll a state out in time and compare with the truth (--out .xdmf, .pvd, .npz)."""
    from apps.pde import verbs

    emit(verbs.rollout(model, steps=steps, row=row, every=every, out=out, mesh_file=mesh, members=members,
                       noise=noise, seed=seed), json)  # fmt: skip


@app.command()
def evaluate(
    model: Model,
    n: Annotated[int, typer.Option("-n", help="At most so many test trajectories.", min=1)] = 10,
    json: Json = False,
) -> None:
    """Judge a model on test trajectories beside baselines that know as much."""
    from apps.pde import verbs

    emit(verbs.evaluate(model, n=n), json)


@app.command()
def calibrate(
    model: Model,
    further: Annotated[
        int, typer.Option("--further", help="Validation trajectories to simulate beyond the recipe's.", min=0)
    ] = 8,
    json: Json = False,
) -> None:
    """Calibrate ensembles on validation trajectories; the result travels with the checkpoint."""
    from apps.pde import verbs

    emit(verbs.calibrate(model, further=further), json)


@app.command()
def simulate(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...")] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run the truth's solver for a recipe; --out FILE.npz is a data set, .xdmf or .pvd shows its first trajectory."""
    from apps.pde import verbs

    emit(verbs.simulate(words or [], Path(out) if out else None), json)


@app.command()
def validate(model: Model, row: Row = 0, json: Json = False) -> None:
    """Solve a test trajectory again and print how far the model is from it over time, and what both cost."""
    from apps.pde import reports

    emit(reports.validate(model, row=row), json)


@app.command()
def report(model: Model, row: Row = 0, out: Out = None, json: Json = False) -> None:
    """Write the same as an HTML page with pictures, an animation and a series for ParaView (--out FOLDER)."""
    from apps.pde import reports

    emit(reports.report(model, row=row, out=out or Path("report")), json)


@app.command()
def mesh(
    path: Annotated[str, typer.Argument(help="A mesh file: .msh, .vtu, .xdmf, .inp, ...")], json: Json = False
) -> None:
    """Check a mesh file: quality and named boundary parts."""
    from apps.pde import verbs

    emit(verbs.mesh(path), json)


@app.command()
def assimilate(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...")] = None,
    sensors: Annotated[int, typer.Option("--sensors", help="Nodes that are read.", min=1)] = 16,
    noise: Annotated[float, typer.Option("--noise", help="Of the readings, relative to the field.", min=0)] = 0.05,
    row: Annotated[int, typer.Option("--row", help="Test trajectory.", min=0)] = 0,
    frame: Annotated[int, typer.Option("--frame", help="Its state; -1 is the last.")] = -1,
    members: Annotated[int, typer.Option("--members", help="Of the posterior.", min=2)] = 16,
    seed: Seed = 0, out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Find a test state from few noisy sensors, beside gappy POD and interpolation (--out .xdmf, .pvd, .npz)."""
    from apps.pde import verbs

    emit(verbs.assimilate(words or [], sensors=sensors, noise=noise, row=row, frame=frame, members=members, seed=seed,
                          out=Path(out) if out else None), json)  # fmt: skip
