"""quintet's core: one vocabulary for discrete and continuous diffusion."""

__version__ = "0.1.0"
