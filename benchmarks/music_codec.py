"""How much of held-out recordings the mel codec keeps, after so many CPU-seconds of training its decoder.

The components are fitted to, and the decoder trained on, the first 80 % of each of six recordings (344 s); the last
20 % judge. The clock is the process's own CPU time on one thread, so that a busy machine does not change the figure.
"""

from __future__ import annotations

import copy
import math
import time

import torch

from apps.music import data
from apps.music.metrics import log_spectral_distance, mel_distance
from apps.music.model import MusicNet
from apps.music.task import CodecTask
from benchmarks.harness import Bar, Result
from core.run.config import load_recipe

__all__ = ["run"]

BUDGET, DECAY = 150.0, 0.98


def train(task: CodecTask, seconds: float) -> tuple[MusicNet, int]:
    """Train by the process's clock; return the averaged network and the number of steps."""
    torch.manual_seed(task.recipe.seed)
    net = task.module().train()
    average = copy.deepcopy(net)
    learned = [p for p in net.parameters() if p.requires_grad]
    shadow = [p for p in average.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, task.recipe.optim.lr, (0.9, 0.99), weight_decay=0.0)
    began, step = time.process_time(), 0
    while (done := (time.process_time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 20)
            group["lr"] = task.recipe.optim.lr * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)
        loss, _ = task.loss(net, task.batch(step, 0, 1), step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(shadow, learned, strict=True):
                a.lerp_(p, 1 - min(DECAY, (1 + step) / (10 + step)))
        step += 1
    return average.eval(), step


def run(full: bool) -> Result:
    """Measure; `full` trains ten times as long."""
    torch.set_num_threads(1)
    task = CodecTask(load_recipe("music", "codec"))
    budget = BUDGET * (10 if full else 1)
    net, steps = train(task, budget)
    held = data.recordings(task.recipe.data.root, "valid")
    rows, weights = [], []
    spent, length = 0.0, 0
    for audio in held:
        began = time.process_time()
        made = net.codec.decode(net.codec.encode(audio))[: len(audio)]  # type: ignore[arg-type, operator]
        spent, length = spent + time.process_time() - began, length + len(audio)
        rows.append((mel_distance(audio, made), log_spectral_distance(audio, made)))
        weights.append(len(audio))
    mel, spectral = (sum(r[k] * w for r, w in zip(rows, weights, strict=True)) / sum(weights) for k in (0, 1))
    figures = {
        "mel_l1_db": mel, "log_spectral_db": spectral, "cpu_seconds": budget, "steps": steps,
        "share_of_real_time": spent / (length / 32000), "by_recording": rows,
    }  # fmt: skip
    bars = [
        Bar("held-out mel distance, dB", mel, "<=", 2.71),
        Bar("held-out log-spectral distance, dB", spectral, "<=", 6.75),
        Bar("CPU-seconds of training", budget, "<=", 150.0 * 344 / 180),
    ]
    notes = (
        "64 numbers at 15.6 Hz, 32 kHz mono; silence counts as -80 dB; the bar allows 150 CPU-seconds per 3 minutes of "
        "audio, 344 s of audio train."
    )
    return Result(figures, bars, {"mel_l1_db": "dB", "log_spectral_db": "dB", "steps": "of 6 one-second segments"},
                  notes=notes)  # fmt: skip
