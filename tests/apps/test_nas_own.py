"""Spaces, tables and images of the user: what is legitimate works, what is not is one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from apps.nas import images
from apps.nas.cell import Cell
from apps.nas.modules import build
from apps.nas.space import load
from apps.nas.training import settings

NB201 = load("nb201")


@pytest.mark.parametrize("size", [(9, 9), (15, 10), (50, 50)])
def test_images_of_any_size_pass_the_stages(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(24, *size)), y=np.arange(24) % 2)
    data = images.load(str(tmp_path / "own.npz"))
    net = build(Cell.of(NB201, [3] * 6).literal(), **settings(data)).eval()
    assert net(data.x[:2]).shape == (2, 2)
    assert torch.isfinite(net(data.x[:2])).all()
