"""The command line of the trajectory app: `quintet trajectory VERB`."""

from pathlib import Path
from typing import Annotated

import typer

from core.run.cli import Json, Out, build, emit

PLACE = '17, "u-v", node:ID, way:ID, "lon,lat" or zone:FILE.geojson'

Model = Annotated[str, typer.Argument(help="A model that ships (toy), or the folder of a run.")]
Requests = Annotated[int, typer.Option("-n", help="At most so many requests.", min=1)]
Trips = Annotated[int, typer.Option("-n", help="Trips of each request.", min=1)]
Origin = Annotated[str, typer.Option("--origin", help=f"Where trips start: {PLACE}.")]
Destination = Annotated[str, typer.Option("--destination", help="Where they end, written alike.")]
Table = Annotated[Path | None, typer.Option("--od", help="CSV of requests: origin, destination, maybe depart.")]
Via = Annotated[list[str] | None, typer.Option("--via", help="Pass here; repeat for more, in this order.")]
Closed = Annotated[list[str] | None, typer.Option("--closed", help="Closed place; repeat for more.")]
Polygon = Annotated[
    list[str] | None, typer.Option("--close-polygon", help='Closed area: FILE.geojson or "lon,lat lon,lat lon,lat".')
]
Forbid = Annotated[list[str] | None, typer.Option("--forbid", help="Road class that must not be used; repeat.")]
MinHops = Annotated[int, typer.Option("--min-hops", help="At least so many segments after the origin.")]
MaxHops = Annotated[int, typer.Option("--max-hops", help="At most so many.")]
MinKm = Annotated[float, typer.Option("--min-km", help="At least so many kilometres, first and last segment included.")]
MaxKm = Annotated[float, typer.Option("--max-km", help="At most so many, counted alike.")]
Depart = Annotated[str, typer.Option("--depart", help='"08:15", "sat 23:40", an ISO time or unix seconds.')]
Seed = Annotated[int, typer.Option("--seed", help="All randomness.", min=0)]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampling steps per block.", min=1)]
Block = Annotated[int | None, typer.Option("--block", help="Segments per block.", min=1)]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Weight of classifier-free guidance.", min=0)]
Network = Annotated[str, typer.Option("--network", help="Other roads than those of the training: a file or folder.")]
Real = Annotated[str, typer.Option("--trips", help="Trips to use instead of those that the training left out.")]

EXAMPLES = {
    "sample": "sample toy -n 20 --origin 3 --destination 200 --via 100 --closed 50 --out trips.geojson",
    "match": "match roads.osm traces.gpx --out trips.csv --report fates.csv",
    "whatif": "whatif toy --busiest 2 --most 100 --out closed",
}

app = build(
    "trajectory",
    summary="Road trips on a real network: via points, closures, limits; always legal.",
    examples=EXAMPLES,
)


@app.command()
def sample(
    model: Model, n: Trips = 8, origin: Origin = "", destination: Destination = "", od: Table = None, via: Via = None,
    closed: Closed = None, close_polygon: Polygon = None, forbid: Forbid = None, min_hops: MinHops = 0,
    max_hops: MaxHops = 0, min_km: MinKm = 0.0, max_km: MaxKm = 0.0, depart: Depart = "", seed: Seed = 0,
    steps: Steps = None, block: Block = None, guidance: Guidance = None, network: Network = "", out: Out = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Draw trips under constraints.

    --out FILE writes .geojson, .gpx, .csv, .parquet, .rou.xml or .html; without it GeoJSON goes to stdout.
    Kilometres and minutes are those of the whole trip: from the start of its first segment to the end of its last.
    """
    from apps.trajectory import verbs

    wishes = verbs.wishes(
        origin=origin, destination=destination, via=via, closed=closed, close_polygon=close_polygon, forbid=forbid,
        min_hops=min_hops, max_hops=max_hops, min_km=min_km, max_km=max_km, depart=depart,
    )  # fmt: skip
    settings = {"steps": steps, "block": block, "guidance": guidance}
    result = verbs.sample(model, wishes, n=n, od=od, seed=seed, settings=settings, network=network, out=out)
    if result is not None:
        emit(result, json)


@app.command()
def evaluate(
    model: Model, trips: Real = "", n: Requests = 200, seed: Seed = 0, network: Network = "", out: Out = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Judge a model beside the baselines: both protocols, noise floors, privacy card (--out FILE.html: a report)."""
    from apps.trajectory import verbs

    card = verbs.evaluate(model, trips=trips, n=n, seed=seed, network=network, out=out)
    if json:
        emit(card.result(), True)
    else:
        print(card.text())


@app.command()
def match(
    network: Annotated[str, typer.Argument(help="Roads: an OSM, GraphML, SUMO or .npz file, or a HOSER folder.")],
    traces: Annotated[Path, typer.Argument(help="Raw GPS: .gpx, .csv (id, t, lat, lon) or Porto polylines.")],
    out: Out = None,
    report: Annotated[Path | None, typer.Option("--report", help="CSV: what became of each trace, and why.")] = None,
    json: Json = False,
) -> None:
    """Match raw GPS to the roads; --out FILE as for `sample` (train on .csv: data.trips=FILE data.real=0.8)."""
    from apps.trajectory import verbs

    emit(verbs.match(network, traces, out, report), json)


@app.command()
def whatif(
    model: Model, closed: Closed = None, close_polygon: Polygon = None, forbid: Forbid = None,
    busiest: Annotated[int, typer.Option("--busiest", help="Close the so many busiest segments.", min=0)] = 0,
    od: Table = None, n: Trips = 1, trips: Real = "",
    most: Annotated[int, typer.Option("--most", help="At most so many requests without --od.", min=1)] = 500,
    seed: Seed = 0, network: Network = "", out: Out = None, json: Json = False,
) -> None:  # fmt: skip
    """Close roads, draw the affected trips again with the same seeds, and map where they go.

    The demand is --od, or the requests of --trips, or of the trips that the training left out. --out is a folder.
    """
    from apps.trajectory import verbs

    closure = verbs.wishes(closed=closed, close_polygon=close_polygon, forbid=forbid)
    emit(verbs.whatif(model, closure, busiest, od=od, n=n, trips=trips, most=most, seed=seed, network=network, out=out),
         json)  # fmt: skip
