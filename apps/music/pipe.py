"""From a session to a loudspeaker: a thread that makes blocks ahead, a queue of few places, a sink that takes its time.

The producer waits where the queue is full (back-pressure) and nothing is ever dropped; the consumer that finds it empty
has an underrun, which is counted. Sinks: a pipe (raw samples), a sound device where `sounddevice` is installed, and for
tests anything that can be called.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from apps.music.live import Block, LiveSession
from core.errors import UsageError

__all__ = ["Report", "device", "stream"]


@dataclass
class Report:
    """What happened: blocks and samples played, times that the queue was empty, the slowest block and the mean."""

    blocks: int = 0
    samples: int = 0
    underruns: int = 0
    slowest_ms: float = 0.0
    total_ms: float = 0.0


def stream(
    session: LiveSession, sink: Callable[[Tensor], None], *, blocks: int = 0, ahead: int = 2,
    between: Callable[[Block], None] = lambda block: None,
) -> Report:  # fmt: skip
    """Play a session into a sink.

    Args:
        session: what plays.
        sink: takes samples [m] and returns when it is ready for more.
        blocks: how many; 0 for ever (until the sink raises `StopIteration` or `BrokenPipeError`).
        ahead: blocks that may wait.
        between: told of each block before the next is begun, on the producer's side.
    """
    waiting: queue.Queue[Block | BaseException | None] = queue.Queue(max(1, ahead))
    done = threading.Event()

    def produce() -> None:
        try:
            while not done.is_set() and (not blocks or session.number < first + blocks):
                block = session.block()
                between(block)
                _put(waiting, block, done)
            _put(waiting, None, done)
        except Exception as error:
            _put(waiting, error, done)

    first, report = session.number, Report()
    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            report.underruns += waiting.empty() and report.blocks > 0 and not (blocks and report.blocks >= blocks)
            item = waiting.get()
            if item is None:
                return report
            if isinstance(item, BaseException):
                raise item
            report.blocks += 1
            report.samples += len(item.audio)
            report.total_ms += item.compute_ms
            report.slowest_ms = max(report.slowest_ms, item.compute_ms)
            sink(item.audio)
    except (StopIteration, BrokenPipeError):
        return report
    finally:
        done.set()
        thread.join(timeout=10)


def _put(waiting: queue.Queue, item: Block | BaseException | None, done: threading.Event) -> None:
    while not done.is_set():
        try:
            waiting.put(item, timeout=0.1)
            return
        except queue.Full:
            continue


def device(rate: int) -> Callable[[Tensor], None]:
    """Return a sink that plays on the sound device.

    Raises:
        UsageError: there is no `sounddevice`, or no device.
    """
    known: tuple[type[Exception], ...] = (ImportError, OSError)
    try:
        module = import_module("sounddevice")  # not a dependency
        known += (module.PortAudioError,)
        out = module.OutputStream(rate, channels=1, dtype="float32")
        out.start()
    except known as error:
        hint = "install sounddevice, or pipe into a player"
        raise UsageError(f"no sound device ({error})", field="play", hint=hint) from None
    return lambda audio: out.write(audio.clamp(-1, 1).to(torch.float32).numpy()[:, None])
