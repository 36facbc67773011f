"""Sets of backbones from files: what is taken, how it is clustered, that held-back clusters stay held back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.bio.protein.collect import Collection, backbones, collect, relative, shared
from apps.bio.protein.data import AMINO, Backbones, folds, read_backbones, together
from apps.bio.protein.model import ProteinConfig
from apps.bio.protein.task import FoldingTask
from core.errors import DataError, UsageError

THREE = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR".split()
STEP = np.array([[0, 0, 0], [1.46, 0, 0], [2.0, 1.42, 0], [1.3, 2.4, 0.3]])


def words(seed: int, count: int, length: int = 60) -> list[str]:
    """Return random sequences that are not alike."""
    rng = np.random.default_rng(seed)
    return ["".join(AMINO[v] for v in rng.integers(0, 20, length)) for _ in range(count)]


def changed(word: str, share: float, seed: int = 0) -> str:
    """Return a sequence with exactly that share of its letters replaced by the next of the alphabet."""
    rng = np.random.default_rng(seed)
    at = set(rng.permutation(len(word))[: round(share * len(word))].tolist())
    return "".join(AMINO[(AMINO.index(a) + 7) % 20] if i in at else a for i, a in enumerate(word))


def pdb(path: Path, chains: dict[str, str]) -> Path:
    """Write a file of stretched chains."""
    lines, serial = [], 1
    for row, (name, word) in enumerate(chains.items()):
        for i, letter in enumerate(word):
            for atom, xyz in zip(("N", "CA", "C", "O"), STEP + [3.3 * i, 20.0 * row, 0], strict=True):
                at = "".join(f"{v:8.3f}" for v in xyz)
                lines.append(f"ATOM  {serial:5d}  {atom:<3s} {THREE[AMINO.index(letter)]} {name}{i + 1:4d}    {at}"
                             f"{1.0:6.2f}{20.0:6.2f}          {atom[0]:>2s}\n")  # fmt: skip
                serial += 1
    path.write_text("".join(lines) + "END\n")
    return path


def held(sequences: list[str], cluster: list[int]) -> Backbones:
    """Return a set whose chains have these sequences and clusters."""
    tokens = [np.array([AMINO.index(a) for a in s]) for s in sequences]
    rng = np.random.default_rng(1)
    coords = [rng.normal(0, 8, (len(s), 4, 3)).astype(np.float32) for s in sequences]
    return Backbones([f"m{i}A" for i in range(len(tokens))], coords, [np.arange(len(s)) for s in sequences], tokens,
                     np.array(cluster), np.full(len(tokens), 2.0))  # fmt: skip


def test_shared_residues_are_counted_over_the_shorter_chain() -> None:
    """Substitutions, insertions and overhangs against counts by hand."""
    (word,) = words(0, 1)
    assert shared(word, word) == 1.0
    assert shared(word, changed(word, 0.25)) == pytest.approx(0.75, abs=0.02)
    assert shared(word, word[10:50]) == 1.0, "overhangs cost nothing"
    assert shared(word, word[:30] + "GG" + word[30:]) == 1.0, "a short insertion is a gap"
    assert shared(*words(3, 2)) < 0.3


def test_strangers_are_seldom_taken_for_relatives() -> None:
    """Of random chains about one in a hundred searches finds a relative; a third of equal residues is found."""
    known = words(7, 40, 120)
    assert sum(relative(w, known) is not None for w in words(8, 60, 120)) <= 3
    assert all(relative(changed(w, 0.65, seed=i), known) == w for i, w in enumerate(known[:10]))
    assert relative(known[0], []) is None


def test_chains_are_taken_once_and_clustered(tmp_path: Path) -> None:
    """Relatives share a cluster, strangers do not; copies, short chains and broken files are named."""
    a, b = words(1, 2)
    files = [pdb(tmp_path / "1one.pdb", {"A": a, "B": b, "C": a}), pdb(tmp_path / "2two.pdb", {"A": changed(a, 0.4)}),
             pdb(tmp_path / "3sho.pdb", {"A": a[:20]}), tmp_path / "none.pdb"]  # fmt: skip
    found = collect(files)
    assert found.names == ["1one:A", "1one:B", "2two:A"]
    assert found.cluster == [0, 1, 0]
    assert [name for name, _ in found.left_out] == ["1one:C", "3sho:A", "none.pdb"]
    with pytest.raises(DataError, match="no new chain"):
        collect(files[2:3])


def test_a_set_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Coordinates, numbers, letters and clusters survive the file; the verb counts what it wrote."""
    a, b = words(2, 2)
    file = pdb(tmp_path / "1one.pdb", {"A": a, "B": b})
    told = backbones([file], beside=None, shortest=30, longest=500, expect=0.01, out=tmp_path / "set")
    data = read_backbones(tmp_path / "set")
    assert told | {"out": ""} == {"out": "", "chains": 2, "residues": 120, "clusters": 2, "left_out": 0,
                                  "chains_in_known_clusters": 0}  # fmt: skip
    assert data.names == ["1oneA", "1oneB"]
    assert ["".join(AMINO[v] for v in x) for x in data.tokens] == [a, b]
    assert np.allclose(data.coords[1][5], STEP + [16.5, 20, 0], atol=1e-3)
    assert data.number[0].tolist() == list(range(1, 61))
    assert not list((tmp_path / "set").glob("*.part"))


def test_relatives_of_held_back_clusters_do_not_train(tmp_path: Path) -> None:
    """A new chain like one of the test fold trains nobody, one like a fold trains the others, a stranger all."""
    own = words(4, 6)
    main = held(own, list(range(6)))
    fold = folds(main, 3)
    test, first = int(np.flatnonzero(fold == 0)[0]), int(np.flatnonzero(fold == 1)[0])
    (stranger,) = words(5, 1)
    fresh = [changed(own[test], 0.5), changed(own[first], 0.5), stranger]
    files = [pdb(tmp_path / f"{k}new.pdb", {"A": word}) for k, word in enumerate(fresh)]
    found = collect([*files, pdb(tmp_path / "copy.pdb", {"A": own[2]})], beside=main)
    assert found.cluster == [test, first, 6] and [n for n, _ in found.left_out] == ["copy:A"]
    found.write(tmp_path / "set")
    whole = together(main, read_backbones(tmp_path / "set"))
    task = FoldingTask(ProteinConfig(members=2, whole=1, dim=8, neighbours=4), 0, whole, len(main))
    assert task.fold[:6].tolist() == fold.tolist(), "the folds of the main set stand"
    seen = [{int(i) for rows in task.chains(k).values() for i in rows} for k in range(3)]
    assert all(6 not in s for s in seen), "nobody sees the relative of the test fold"
    assert 7 not in seen[0] and 7 in seen[1] and 7 in seen[2]
    assert all(8 in s for s in seen)


def test_a_set_of_too_few_clusters_is_refused(tmp_path: Path) -> None:
    main = held(words(4, 2), [0, 0])
    with pytest.raises(DataError, match="protein.data: too few clusters: a network would see none; got 1"):
        FoldingTask(ProteinConfig(members=2, whole=1, dim=8, neighbours=4), 0, main)


def test_nothing_is_half_written(tmp_path: Path) -> None:
    """A set that cannot be written leaves none of its two files, and no file gives way to its folder."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="out: is a file"):
        backbones([], beside=None, shortest=30, longest=50, expect=0.01, out=tmp_path / "mine")
    broken = Collection(["x:A"], ["ACD"], [np.zeros((3, 4, 3))], [np.arange(3)], [0])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "backbones.csv.part").mkdir()
    with pytest.raises(OSError):
        broken.write(tmp_path / "set")
    assert not (tmp_path / "set" / "backbones.npz").exists()
