"""HTML maps of flows, trips and flow differences.

Each page is one file. The interactive map is folium's: its library (Leaflet) and its background tiles come from the
network when the page is opened, and the page says so. The roads and flows themselves, and a picture of the same, are
inside the file, so that without a network the picture remains.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path

import folium
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from apps.trajectory.data import Trips
from apps.trajectory.export import edge_names, writing
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from apps.trajectory.pictures import (
    CLOSED,
    COLOURS,
    LESS,
    MORE,
    credit,
    difference_picture,
    flow_picture,
    png,
    trips_picture,
    uses,
)

__all__ = ["difference_map", "flow_features", "flow_map", "trips_map"]

Features = list[dict]


def flow_map(trips: Trips, path: str | Path, title: str = "Trips per segment") -> None:
    """Write a map where each segment is as wide as it is driven."""
    network, flow = trips.network, uses(trips)
    top = max(float(flow.max(initial=0)), 1.0)
    used = np.flatnonzero(flow)
    features = flow_features(network, used[np.argsort(flow[used])], {"trips": flow})
    for f in features:
        share = np.sqrt(f["properties"]["trips"] / top)
        f["properties"] |= {"colour": COLOURS[0], "width": 1 + 9 * share, "opacity": 0.35 + 0.6 * share}
    text = f"{len(trips):,} trips on {len(used):,} segments; the busiest is driven {int(top):,} times."
    _page(network, [("flow", features)], flow_picture(network, flow, title), path, title, text)


def trips_map(sets: Mapping[str, Trips], path: str | Path, title: str = "Trips", most: int = 300) -> None:
    """Write a map with the trips of each named set as a layer of its own (the first `most` of each)."""
    network = next(iter(sets.values())).network
    shown = {name: t.select(slice(0, most)) for name, t in sets.items()}
    layers = []
    for k, (name, trips) in enumerate(shown.items()):
        rows = zip(trips.id, trips.kilometres(), trips.lists(), strict=True)
        features = [_feature(network.polyline(s), {"trip": i, "km": round(float(km), 2)}) for i, km, s in rows]
        for f in features:
            f["properties"] |= {"colour": COLOURS[k % 7], "width": 3, "opacity": 0.55}
        layers.append((name, features))
    text = "; ".join(f"{name}: {len(shown[name]):,} of {len(sets[name]):,} trips" for name in sets)
    _page(network, layers, trips_picture(shown, title=title), path, title, text)


def difference_map(
    network: RoadNetwork, before: NDArray[np.integer], after: NDArray[np.integer], closed: NDArray[np.bool_],
    path: str | Path, title: str = "Change of trips per segment",
) -> None:  # fmt: skip
    """Write a map of the change of flow between two tables of uses `[N]`: red more, blue less, black closed."""
    change = after.astype(np.int64) - before
    top = max(float(np.abs(change).max(initial=0)), 1.0)
    moved = np.flatnonzero((change != 0) & ~closed)
    columns = {"before": before, "after": after, "change": change}
    features = flow_features(network, moved[np.argsort(np.abs(change[moved]))], columns)
    for f in features:
        size = f["properties"]["change"]
        width = 1 + 9 * np.sqrt(abs(size) / top)
        f["properties"] |= {"colour": MORE if size > 0 else LESS, "width": width, "opacity": 0.8}
    shut = flow_features(network, np.flatnonzero(closed), columns)
    for f in shut:
        f["properties"] |= {"colour": CLOSED, "width": 6, "opacity": 0.9}
    text = f"Red: more trips, blue: fewer, black: closed. The largest change is {int(top):,} trips."
    picture = difference_picture(network, change, closed, title)
    _page(network, [("change", features), ("closed", shut)], picture, path, title, text)


def flow_features(network: RoadNetwork, ids: NDArray[np.integer], columns: Mapping[str, NDArray]) -> Features:
    """Return GeoJSON line features of segments with their name, class and the given columns `[N]`."""
    names, rows = edge_names(network), []
    for i, segment in zip(ids.tolist(), network.ids(ids).tolist(), strict=True):
        values = {"segment": segment, "name": names[i], "class": ROAD_CLASSES[network.road_class[i]]}
        rows.append(_feature(network.polyline([i]), values | {k: int(v[i]) for k, v in columns.items()}))
    return rows


def _feature(lonlat: NDArray[np.float64], properties: dict) -> dict:
    line = lonlat if len(lonlat) > 1 else np.repeat(lonlat, 2, axis=0)
    place = {"type": "LineString", "coordinates": line.round(6).tolist()}
    return {"type": "Feature", "properties": properties, "geometry": place}


def _page(
    network: RoadNetwork,
    layers: Iterable[tuple[str, Features]],
    picture: Figure,
    path: str | Path,
    title: str,
    text: str,
) -> None:
    view = folium.Map(tiles=None, prefer_canvas=True, height="72%", control_scale=True)
    folium.TileLayer("OpenStreetMap", name="background", opacity=0.45, attr=html.escape(credit(network))).add_to(view)
    for name, features in layers:
        if not features:
            continue
        shown = [k for k in features[0]["properties"] if k not in ("colour", "width", "opacity")]
        folium.GeoJson(
            {"type": "FeatureCollection", "features": [_harmless(f) for f in features]},
            name=html.escape(name),
            style_function=_style,
            tooltip=folium.GeoJsonTooltip(shown),
        ).add_to(view)
    folium.LayerControl(collapsed=False).add_to(view)
    south_west, north_east = network.to_lonlat(np.stack([network.geom_xy.min(axis=0), network.geom_xy.max(axis=0)]))
    view.fit_bounds([south_west[::-1].tolist(), north_east[::-1].tolist()])
    root = view.get_root()
    root.header.add_child(folium.Element(f"<title>{html.escape(title)}</title>"))  # type: ignore[attr-defined]
    root.html.add_child(folium.Element(_foot(view.get_name(), png(picture), title, text, credit(network))))  # type: ignore[attr-defined]
    page = root.render()
    with writing(path) as file:
        file.write(page)


def _harmless(feature: dict) -> dict:
    """Escape the words of a feature: a tooltip is HTML, and names of trips and roads come from strangers' files."""
    words = {k: html.escape(v) if isinstance(v, str) else v for k, v in feature["properties"].items()}
    return feature | {"properties": words}


def _style(feature: dict) -> dict:
    p = feature["properties"]
    return {"color": p["colour"], "weight": p["width"], "opacity": p["opacity"]}


def _foot(view: str, picture: str, title: str, text: str, owed: str) -> str:
    return (
        '<div style="font:14px sans-serif;margin:1em auto;max-width:70em;padding:0 1em">'
        f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>"
        "<p><small>The interactive map loads Leaflet and its background tiles from the network; the picture below "
        f"needs none and shows the same. {html.escape(owed)}</small></p>"
        f'<img alt="{html.escape(title)}" style="max-width:100%" src="{picture}"></div>'
        f'<script>if(!window.L)document.getElementById("{view}").style.display="none"</script>'
    )
