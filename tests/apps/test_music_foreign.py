"""Codecs of others behind our interface: a stand-in of their shape, and what is said where theirs are absent."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apps.music.foreign import ForeignCodec
from apps.music.model import CodecConfig, make_codec
from apps.music.synth import RATE
from core.errors import CheckpointError, UsageError


class Net(nn.Module):
    """320 samples to 128 numbers and back, each vector heard a little by the one after it."""

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        basis = torch.linalg.qr(torch.randn(320, 320, generator=torch.Generator().manual_seed(0)))[0][:, :128]
        self.register_buffer("basis", basis)

    def encoder(self, x: Tensor) -> Tensor:
        return (x[:, 0, : x.shape[2] // 320 * 320].reshape(len(x), -1, 320) @ self.basis).transpose(1, 2)

    def decoder(self, z: Tensor) -> Tensor:
        rows = z.transpose(1, 2) @ self.basis.T
        return (rows + 0.1 * rows.roll(1, 1) * (torch.arange(rows.shape[1]) > 0)[:, None]).reshape(len(z), 1, -1)


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ForeignCodec:
    model = SimpleNamespace(encodec_model_24khz=lambda repository: Net())
    monkeypatch.setitem(sys.modules, "encodec", SimpleNamespace(EncodecModel=model))
    found = make_codec(CodecConfig(kind="encodec", dim=100, weights=str(tmp_path)))
    assert isinstance(found, ForeignCodec)
    return found


def test_frames_of_another_codec(codec: ForeignCodec) -> None:
    rng = np.random.default_rng(0)
    sound = torch.from_numpy(0.1 * rng.standard_normal(3 * RATE).cumsum() / 50).float()
    sound = sound - sound.mean()
    assert 0.5 < codec.fit([sound]) <= 1 + 1e-6
    z = codec.encode(sound)
    assert z.shape == (-(-len(sound) // codec.hop), 100) and codec.frame_rate == 25
    whole = codec.decode(z)
    assert len(whole) == len(z) * codec.hop and float(whole.abs().max()) <= 1
    player, at, parts = codec.player(), 0, []
    while at < len(z):
        n = int(rng.integers(0, 9))
        parts.append(player.push(z[at : at + n]))
        at += n
        if n == 3:
            player = player.copy()
    parts.append(player.flush())
    assert torch.equal(torch.cat(parts), whole)
    assert not any(
        "basis" in k and v.shape[0] == 320 for k, v in codec.state_dict().items()
    )  # their weights stay theirs


def test_what_is_absent_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codec: ForeignCodec) -> None:
    codec.weights = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="fetch them"):
        codec.encode(torch.zeros(RATE))
    monkeypatch.setitem(sys.modules, "dac", None)
    with pytest.raises(UsageError, match="descript-audio-codec"):
        ForeignCodec("dac", 8, str(tmp_path)).encode(torch.zeros(RATE))
