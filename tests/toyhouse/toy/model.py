"""The recipe of the toy app."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, setting


@dataclass
class DataConfig:
    """What the toy reads."""

    batch: int = setting(16, low=1, high=256)
    name: str = MISSING


@dataclass
class ModelConfig:
    """What the toy is."""

    dropout: float = setting(0.1, low=0, high=1)
    diverge: bool = False


@dataclass
class Recipe:
    """All settings."""

    seed: int = setting(0, low=0)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
