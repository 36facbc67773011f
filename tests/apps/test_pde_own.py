"""Meshes, conditions and times of the user: what is simulated is what was asked for, or one line says why not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.pde import data, fem, truth
from apps.pde.boundary import insulated, read_conditions
from apps.pde.dynamics import Dynamics, finite
from apps.pde.ensemble import calibrate, conform
from apps.pde.formats import write_mesh
from apps.pde.generate import FieldModel, build
from apps.pde.mesh import Mesh, fold
from apps.pde.model import DataConfig, ModelConfig, Recipe
from apps.pde.network import node_types
from apps.pde.systems import SYSTEMS
from apps.pde.task import make
from core.errors import DataError, QuintetError, UsageError
from core.noise import Stream

WALLS = {"left": "dirichlet(1); dirichlet(0)", "right": "free", "bottom": "dirichlet(0)", "top": "neumann(0)"}


def rectangle(n: int, width: float = 1.0, height: float = 1.0) -> Mesh:
    """Return a lattice of n x n squares, cut in two, with the parts left, right, bottom and top."""
    x = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(x * width, x * height, indexing="ij"), -1).reshape(-1, 2)
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = (k.ravel() for k in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    edges = Mesh(points, triangles).boundary
    x, y = points[edges].mean(1).T
    sides = {"left": x == 0, "right": x == width, "bottom": y == 0, "top": y == height}
    return Mesh(points, triangles, {name: edges[own] for name, own in sides.items()})


def own(folder: Path, mesh: Mesh, **changes: object) -> DataConfig:
    file = write_mesh(folder / "own.msh", mesh)
    config = DataConfig(shape="hole", mesh=str(file), boundary=WALLS, train=1, valid=1, test=1, dt=0.02, steps=3,
                        truth_dt=0.01, modes=1, parameters={"nu": 0.05})  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def test_the_elements_keep_given_velocities_and_follow_a_travelling_front() -> None:
    mesh, nu, a, c = rectangle(10), 0.05, 0.5, 0.6

    def front(p: np.ndarray, t: float) -> np.ndarray:  # u_t + u u_x = nu u_xx
        return np.stack([c - a * np.tanh(a * (p[:, 0] - 0.3 - c * t) / (2 * nu)), 0 * p[:, 0]], 1)

    def start(p: np.ndarray) -> np.ndarray:  # beyond the harmonic field, which is linear in x here
        low, high = front(np.zeros((1, 2)), 0), front(np.ones((1, 2)), 0)
        return front(p, 0) - low - p[:, :1] * (high - low)

    found = fem.burgers(mesh, start, nu, 0.005, 80, 40, held={"left": front, "right": front})
    for k, t in enumerate((0.0, 0.2, 0.4)):
        assert np.abs(found[k] - front(mesh.points, t)).max() < 2e-3
        at = mesh.nodes("left")
        assert np.allclose(found[k][at], front(mesh.points[at], t), atol=1e-12)


def test_simulated_boundary_values_are_those_of_the_recipe(tmp_path: Path) -> None:
    config = own(tmp_path, rectangle(6))
    found = data.splits(config, 0).train
    left, inside = found.mesh.nodes("left"), found.mesh.nodes("bottom")[1:]
    assert np.all(found.states[0][:, left[1:]] == (1, 0)) and not found.states[0][:, inside].any()
    moving = replace(config, boundary={**WALLS, "left": "dirichlet(1 + t*y); dirichlet(nu)"})
    found = data.splits(moving, 0).train
    want = np.stack([1 + found.times[:, None] * found.mesh.points[left, 1], 0.05 + np.zeros((4, len(left)))], -1)
    assert np.allclose(found.states[0][:, left], want, atol=1e-6)


def test_a_cache_from_before_values_were_heard_is_not_taken(tmp_path: Path) -> None:
    still = DataConfig(shape="hole", boundary={"hole": "dirichlet(0)"}, cache=str(tmp_path))
    assert data.folder(still, 0).name == "burgers-307274f3f659"  # the names of what is as it was stay
    moving = replace(still, boundary={"hole": "dirichlet(1); dirichlet(0)"})
    assert data.folder(moving, 0).name != "burgers-e78e27b5d7b7"


@pytest.mark.parametrize("text", ["neumann(3)", "robin(1, 1, 0)", "slip", "dirichlet(0); free", "dirichlet(v)"])
def test_conditions_that_the_elements_do_not_know_are_refused(tmp_path: Path, text: str) -> None:
    config = own(tmp_path, rectangle(6), boundary={**WALLS, "top": text})
    with pytest.raises(UsageError, match=r"boundary\.top: the elements cannot solve this"):
        data.splits(config, 0)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_a_wall_is_straight_or_tilted_in_any_units(unit: float) -> None:
    mesh = rectangle(4)
    sides = dict.fromkeys(mesh.groups, "slip")
    noise = 1e-10 * np.random.default_rng(0).standard_normal(mesh.points.shape)
    near = Mesh((mesh.points + noise) * unit, mesh.triangles, mesh.groups)
    u, v = read_conditions(near, sides, ("u", "v"), ())
    assert [u["top"].kind, v["top"].kind, u["left"].kind] == ["robin", "dirichlet", "dirichlet"]
    turned = Mesh(mesh.points @ np.array([[0.999, -0.04], [0.04, 0.999]]) * unit, mesh.triangles, mesh.groups)
    with pytest.raises(UsageError, match="walls along x or y"):
        read_conditions(turned, sides, ("u", "v"), ())


def test_values_are_large_beside_others_and_not_by_their_units() -> None:
    def start(p: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(3 * p[:, 0]), np.cos(2 * p[:, 1])], 1)

    found = []
    for unit in (1.0, 1e7):  # of lengths and velocities
        mesh, nu = rectangle(6, unit, unit), 0.05 * unit**2
        solved = fem.burgers(mesh, lambda p, unit=unit: unit * start(p / unit), nu, 0.01, 6, 2)
        system = replace(SYSTEMS["burgers"], parameters={"nu": nu}, boundary=dict.fromkeys(mesh.groups, "neumann(0)"))
        net = Dynamics(ModelConfig(kind="operators", operators="least_squares"), system, mesh, 0.001)
        rolled = FieldModel(net, Recipe()).rollout(unit * start(mesh.points / unit), 4).states
        found.append((solved / unit, rolled / unit))
    assert np.allclose(*(s for s, _ in found), atol=1e-9) and np.allclose(*(r for _, r in found), atol=1e-4)
    usual = np.full(3, 5e6)
    assert finite(usual, usual) and not finite(1e4 * usual, usual) and not finite(usual) and not finite(usual * np.nan)


@pytest.mark.parametrize("zero", ["neumann(0.0)", "neumann( -0 )", "robin(0.0, 1.0, 0)", "neumann()"])
def test_no_flux_is_no_flux_however_it_is_written(tmp_path: Path, zero: str) -> None:
    plain, other = (own(tmp_path, rectangle(6), boundary={**WALLS, "top": text}) for text in ("neumann(0)", zero))
    assert np.array_equal(data.splits(other, 0).train.states, data.splits(plain, 0).train.states)
    system, mesh = data.posed(other)
    assert "top" in insulated(read_conditions(mesh, system.boundary, system.fields, ("nu",)))


def test_a_warm_up_that_the_elements_would_not_make_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"warmup: the elements keep all states.*data\.warmup=0"):
        data.splits(own(tmp_path, rectangle(6), warmup=0.3), 0)
    with pytest.raises(UsageError, match="warmup: the elements"):
        data.splits(DataConfig(system="cells", nodes=300, warmup=0.3), 0)


@pytest.mark.parametrize(("name", "part"), [("cylinder", "bottom"), ("cells", "cell_2")])
def test_solvers_with_conditions_of_their_own_refuse_others(name: str, part: str) -> None:
    config = DataConfig(system=name, nodes=300, train=1, reynolds=[100] * (name == "cylinder"), dt=0.2, steps=2,
                        warmup=0.6 * (name == "cylinder"), boundary={part: "dirichlet(0)"})  # fmt: skip
    own_system, mesh = data.posed(config)
    with pytest.raises(UsageError, match=rf"boundary\.{part}: is not what this system's solver has there"):
        truth.solve(config, own_system, mesh, 0, truth.labels(config)["train"][0])
    own_system, mesh = data.posed(replace(config, boundary={}))
    assert truth.solve(replace(config, steps=1), own_system, mesh, 0, truth.labels(config)["train"][0]).states.any()


def test_a_warm_up_of_any_length_leaves_all_states() -> None:
    config = DataConfig(system="cylinder", nodes=300, reynolds=[100], reynolds_valid=[110], reynolds_test=[120],
                        dt=0.2, steps=2, warmup=0.5)  # fmt: skip
    found = data.splits(config, 0)
    longer = data.splits(replace(config, warmup=0.6), 0)
    assert found.train.states.shape[1] == 3
    assert np.array_equal(found.train.states, longer.train.states)


def test_a_file_on_a_mesh_of_ones_own_needs_no_parts_of_the_shape(tmp_path: Path) -> None:
    config = own(tmp_path, rectangle(8))
    file = data.joined(data.simulate(config, *data.posed(config), 0)).save(tmp_path / "own.npz")
    found = data.splits(replace(config, mesh="", file=str(file)), 0)
    assert found.system.boundary == WALLS  # the shape `hole` has a part of that name
    net = Dynamics(ModelConfig(kind="operators"), found.system, found.train.mesh, 0.02)
    recipe = Recipe(model=ModelConfig(kind="operators"), data=replace(config, mesh="", file=str(file)))
    again = build(recipe, net.state_dict())
    assert again.rollout(found.test.states[0, 0], 1).states.shape == (2, 81, 2)
    wrong = data.splits(replace(config, mesh="", file=str(file), boundary={**WALLS, "outlet": "free"}), 0)
    with pytest.raises(UsageError, match="no such boundary part in the mesh; got 'outlet'"):
        Dynamics(ModelConfig(kind="operators"), wrong.system, wrong.train.mesh, 0.02)


def test_walls_on_sides_that_would_be_periodic_are_refused(tmp_path: Path) -> None:
    walls = dict.fromkeys(("left", "right", "bottom", "top"), "dirichlet(0)")
    config = own(tmp_path, rectangle(8), shape="", boundary=walls)
    with pytest.raises(UsageError, match=r"boundary\.left: .* side that is periodic here; .*data\.shape=hole"):
        data.posed(config)
    with pytest.raises(UsageError, match=r"boundary\.hole: .*choose another data\.shape"):
        data.posed(DataConfig(nodes=100, boundary={"hole": "dirichlet(0)"}))
    assert data.posed(replace(config, boundary={}))[1].period == (1, 1)
    assert data.posed(replace(config, shape="hole"))[1].period == (0, 0)


def test_coefficients_of_a_row_do_not_depend_on_time() -> None:
    mesh = rectangle(4)
    for text in ("robin(t, 1, 0)", "robin(1, 1 + t, t)"):
        with pytest.raises(UsageError, match="must not depend on t"):
            read_conditions(mesh, {**WALLS, "left": text}, ("u", "v"), ("nu",))
    read_conditions(mesh, {**WALLS, "left": "robin(1, nu, t*y)"}, ("u", "v"), ("nu",))


def test_periodic_sides_meet_wherever_their_nodes_are_rounded() -> None:
    mesh = rectangle(128)  # 1 / 128 is half a tolerance past a multiple of it
    points = mesh.points + 1e-13 * np.random.default_rng(0).standard_normal(mesh.points.shape)
    assert len(fold(Mesh(points, mesh.triangles, mesh.groups), (1.0, 1.0))[0]) == 128**2
    points[mesh.nodes("top")[5]] += (3e-3, 0)
    with pytest.raises(DataError, match="nodes on a periodic side have no partner"):
        fold(Mesh(points, mesh.triangles, mesh.groups), (1.0, 1.0))


@pytest.mark.parametrize("name", ["gray_scott", "fitzhugh_nagumo", "cylinder"])
def test_samples_start_as_the_trajectories_of_their_system_do(name: str) -> None:
    config = DataConfig(system=name, nodes=200, dt=0.01, fine=32 * (name != "cylinder"), warmup=0.2)
    system, mesh = data.posed(config)
    recipe = Recipe(model=ModelConfig(kind="operators"), data=config)
    model = FieldModel(Dynamics(recipe.model, system, mesh, config.dt), recipe)
    if name == "cylinder":
        with pytest.raises(UsageError, match="has no law of first states to sample"):
            model.sample(1, steps=0)
        return
    drawn = np.stack(model.sample(3, steps=0, seed=4))
    assert np.array_equal(model.sample(1, steps=0, seed=4, index=np.array([2]))[0], drawn[2])
    truths = [truth.first(config, system, mesh, seed) for seed in range(8)]
    low, high = np.min(truths, (0, 1)) - 0.1, np.max(truths, (0, 1)) + 0.1  # u of Gray-Scott lies in 0.5 ... 1
    assert np.all((drawn >= low) & (drawn <= high)) and not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("left", ["dirichlet(0)", "dirichlet(1 + y); dirichlet(0)", "neumann(3)"])
def test_samples_meet_given_values_as_trajectories_do(tmp_path: Path, left: str) -> None:
    config = own(tmp_path, rectangle(8), steps=1, boundary={**WALLS, "left": left})
    system, mesh = data.posed(config)
    recipe = Recipe(model=ModelConfig(kind="operators"), data=config)
    drawn = FieldModel(Dynamics(recipe.model, system, mesh, config.dt), recipe).sample(1, steps=0)[0]
    if left == "neumann(3)":  # a model knows it, the elements do not
        assert np.isfinite(drawn).all()
        return
    law = truth.begin(system, mesh, config.modes)
    want = truth.solve(config, system, mesh, 0, truth.Label("train", 3)).states[0]
    assert np.allclose(law(3), want, atol=1e-6)
    key = int(Stream.of(0, 1, 0).fold(1).uniform(1)[0, 0] * 2**52)
    inside = np.setdiff1d(np.arange(len(mesh)), mesh.boundary_nodes)
    assert np.allclose(drawn[inside], law(key)[inside], atol=1e-6)


def test_terms_of_what_is_no_field_are_refused() -> None:
    system, mesh = data.posed(DataConfig(nodes=100))
    with pytest.raises(UsageError, match="model.terms: no such field; got 'U'"):
        Dynamics(ModelConfig(kind="operators", terms={"U": "nu*lap(u)"}), system, mesh, 0.01)


def test_starts_are_as_long_as_the_mesh_in_any_units(tmp_path: Path) -> None:
    unit, wide = rectangle(6), rectangle(6, 1000.0, 1000.0)
    far = Mesh(wide.points + (0, 7e4), wide.triangles, wide.groups)
    starts, drawn = [], []
    for mesh, nu in ((unit, 0.05), (wide, 50.0), (far, 50.0)):
        config = own(tmp_path, mesh, steps=1, parameters={"nu": nu}, boundary=dict.fromkeys(mesh.groups, "free"))
        starts.append(truth.solve(config, *data.posed(config), 0, truth.Label("train", 0)).states[0])
        recipe = Recipe(model=ModelConfig(kind="operators"), data=config)
        model = FieldModel(Dynamics(recipe.model, *data.posed(config), config.dt), recipe)
        drawn.append(model.sample(1, steps=0)[0])
    assert np.allclose(starts[1], starts[0], atol=1e-6) and np.allclose(drawn[1], drawn[0], atol=1e-6)
    for states in (starts, drawn):
        assert states[2].std() == pytest.approx(states[0].std(), rel=0.3)


def test_a_truth_too_coarse_or_too_fine_is_refused(tmp_path: Path) -> None:
    for changes, words in (({"fine": 24}, r"data\.fine: refines the mesh so often that it has 2e\+16 triangles"),
                           ({"dt": 0.0}, r"data\.dt: must be positive")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            data.splits(own(tmp_path, rectangle(6), **changes), 0)
    plain = DataConfig(nodes=60, steps=1, dt=0.01, train=1, valid=1, test=1)
    for name, fine, least in (("burgers", 18, 19), ("gray_scott", 1, 16)):
        with pytest.raises(UsageError, match=rf"data\.fine: is the size of a grid here, which needs {least} points"):
            data.splits(replace(plain, system=name, fine=fine), 0)
    assert data.splits(replace(plain, fine=19), 0).train.states.any()


def test_known_terms_alone_have_nothing_to_learn() -> None:
    with pytest.raises(UsageError, match=r"model\.kind: has nothing to learn"):
        make(Recipe(model=ModelConfig(kind="operators")))


@pytest.mark.parametrize("zero", ["dirichlet(0)", "dirichlet(0.0)", "dirichlet()", "dirichlet( -0 )"])
def test_a_wall_is_an_obstacle_however_its_zero_is_written(zero: str) -> None:
    mesh = rectangle(4)
    kinds = node_types(mesh, read_conditions(mesh, dict.fromkeys(mesh.groups, zero), ("u", "v"), ()))
    assert kinds[mesh.boundary_nodes].argmax(1).eq(1).all()


@pytest.mark.parametrize(
    ("settings", "name"), [({"rounds": 0, "width": 16}, "rounds"), ({"rounds": 2, "width": 3}, "width")]
)
def test_the_papers_network_has_rounds_and_width(settings: dict[str, int], name: str) -> None:
    mesh = rectangle(6)
    walls = replace(SYSTEMS["burgers"], boundary=dict.fromkeys(mesh.groups, "dirichlet(0)"))
    with pytest.raises(UsageError, match=rf"model\.{name}: is too small for the paper's network"):
        Dynamics(ModelConfig(kind="phympgn", operators="cotangent", **settings), walls, mesh, 0.01)  # type: ignore[arg-type]


def test_units_beyond_float32_are_one_line() -> None:
    mesh = rectangle(6, 1e-9, 1e-9)
    free = replace(SYSTEMS["burgers"], boundary=dict.fromkeys(mesh.groups, "free"))
    net = Dynamics(ModelConfig(operators="least_squares"), free, mesh, 1e-9)
    u = np.random.default_rng(0).standard_normal((1, 4, len(mesh), 2)).astype(np.float32)
    with pytest.raises(DataError, match="states: or their derivatives are beyond what float32 holds"):
        net.calibrate(torch.from_numpy(1e2 * u))


def test_members_that_do_not_move_cannot_be_calibrated() -> None:
    mesh = rectangle(6)
    free = replace(SYSTEMS["burgers"], boundary=dict.fromkeys(mesh.groups, "free"))
    net = Dynamics(ModelConfig(kind="operators", knowledge="none", operators="least_squares"), free, mesh, 0.01)
    u = np.random.default_rng(0).standard_normal((2, 5, len(mesh), 2)).astype(np.float32)
    valid = data.Trajectories(mesh, ("u", "v"), np.arange(5) * 0.01, u)
    with pytest.raises(QuintetError, match="ensemble: members do not differ"):
        conform(net, valid, calibrate(net, valid, 4), 4)


def test_near_reynolds_numbers_have_files_of_their_own() -> None:
    names = [truth.Label("train", 0, re).name for re in (160.0, 160.00001, 1234567.0, 1234568.0, 0.0)]
    assert len({*names}) == 5 and names[0] == "re-160"
