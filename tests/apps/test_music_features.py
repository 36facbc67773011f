"""What the ear hears is what librosa measures, and nothing that is played exceeds full scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.music import audio, controls, tunes
from apps.music.codec import MelCodec
from apps.music.roll import RollCodec
from apps.music.score import Score
from apps.music.spectral import HOP, SIZE
from apps.music.synth import RATE, render


@pytest.fixture(scope="module")
def sound() -> Tensor:
    return torch.from_numpy(render(tunes.arrange("joy", 3), 4.0)).float()[: 250 * HOP]


@pytest.fixture(scope="module")
def heard(sound: Tensor) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in controls.listen(sound).items()}


@pytest.fixture(scope="module")
def late(sound: Tensor) -> np.ndarray:
    """Return the sound after as much silence as makes librosa's frames end where ours do."""
    return F.pad(sound, (SIZE - HOP, 0)).numpy()


FRAMES = {"hop_length": HOP, "center": False}


def test_loudness_and_centroid_are_librosas(heard: dict[str, np.ndarray], late: np.ndarray) -> None:
    librosa = pytest.importorskip("librosa")
    rms = librosa.feature.rms(y=late, frame_length=SIZE, **FRAMES)[0]
    loud = (20 * np.log10(rms.clip(1e-4)) + 40) / 20
    assert np.abs(heard["loudness"][:, 0] - loud).max() <= 1e-4  # 0.002 dB
    centre = librosa.feature.spectral_centroid(y=late, sr=RATE, n_fft=SIZE, **FRAMES)[0]
    assert np.abs(heard["centroid"][:, 0] - np.log2(centre.clip(20) / 1000)).max() <= 1e-3  # 0.012 semitones


def test_onsets_and_chroma_go_with_librosas(heard: dict[str, np.ndarray], late: np.ndarray) -> None:
    librosa = pytest.importorskip("librosa")
    power = np.abs(librosa.stft(late, n_fft=SIZE, **FRAMES)) * 4 / SIZE
    mel = librosa.filters.mel(sr=RATE, n_fft=SIZE, n_mels=100, fmin=30, htk=True)
    mel = mel / mel.sum(1, keepdims=True).clip(1e-12)
    mels = np.log((mel @ power).clip(1e-4))
    strength = librosa.onset.onset_strength(S=mels, sr=RATE, lag=1, max_size=1, center=False)
    assert np.corrcoef(heard["onset"][1:, 0], strength[1:])[0, 1] >= 0.99
    chroma = librosa.feature.chroma_stft(S=power**2, sr=RATE, n_fft=SIZE, tuning=0.0, norm=None)
    a, b = heard["chroma"], chroma.T
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).clip(1e-12)
    assert np.median(cosine) >= 0.95 and (a.argmax(1) == b.argmax(1))[cosine > 0].mean() >= 0.8


def test_the_fundamental_is_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    for hertz in (110.0, 233.08, 659.26):
        t = torch.arange(RATE // 2) / RATE
        tone = sum(0.3 / k * torch.sin(2 * torch.pi * k * hertz * t) for k in (1, 2, 3))
        mine = controls.yin(tone.unfold(0, SIZE, HOP))  # type: ignore[union-attr]
        theirs = librosa.yin(tone.numpy(), fmin=60, fmax=1500, sr=RATE, frame_length=SIZE, **FRAMES)  # type: ignore[union-attr]
        assert bool((mine[:, 1] == 1).all())
        cents = 1200 * (mine[:, 0].double().numpy() - np.log2(np.median(theirs) / 220))
        assert np.abs(cents).max() <= 10


def test_nothing_exceeds_full_scale() -> None:
    quiet = torch.linspace(-audio.KNEE, audio.KNEE, 101)
    assert torch.equal(audio.limit(quiet), quiet)
    ramp = torch.linspace(-4, 4, 4001)
    bent = audio.limit(ramp)
    assert float(bent.abs().max()) <= 1 and bool((bent.diff() >= 0).all())
    assert float((bent.diff() / ramp.diff()).max()) <= 1 + 1e-3  # no step anywhere, so no click
    notes = np.array([(b, 1.0, p, 1.0) for b in range(4) for p in range(40, 76, 3)])
    hits = np.array([(float(b), k, 1.0) for b in range(4) for k in range(9)])
    codec = RollCodec(dim=246, ticks=2, low=36, high=84)  # all of a roll
    z = codec.encode(Score(notes, hits, bpm=120, beats=4))
    whole, player = codec.decode(z), codec.player()
    parts = torch.cat([*(player.push(row[None]) for row in z), player.flush()])
    assert float(parts.abs().max()) <= 1 and float((parts - whole).abs().max()) <= 1e-6
    assert float(np.abs(render(Score(notes, hits, bpm=120, beats=4))).max()) > 1  # it would have


def test_a_wild_decoder_is_held_back() -> None:
    torch.manual_seed(0)
    codec = MelCodec(dim=8, width=16)
    for p in codec.vocoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
    assert float(codec.decode(torch.randn(8, 8) * 5).abs().max()) <= 1
