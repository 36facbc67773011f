"""Images with classes to train cells on: the bundled digits, an .npz file, or a folder of pictures.

    FILE.npz     arrays `x` [N, H, W] or [N, C, H, W] (numbers; bytes are divided by 255) and `y` [N], whole numbers
    FOLDER       one folder of pictures for each class; all are brought to the size of the first, in colour

Channels are shifted and scaled to mean 0 and deviation 1 on the training part. 70 % train, 15 % validate, 15 % are
kept for the last word; the split depends on the number of images alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import DataError

__all__ = ["Images", "load"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
LEAST = 20


@dataclass(frozen=True, eq=False)
class Images:
    """Standardised images x [N, C, H, W] float32 and classes y [N] from 0, in the order of the split.

    Attributes:
        name: file or folder.
        classes: how many.
        cut: number of images that train, and of those that train or validate.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: int
    cut: tuple[int, int]

    def part(self, which: str) -> tuple[Tensor, Tensor]:
        """Return images and classes of "train", "valid" or "test"."""
        a, b = self.cut
        rows = {"train": slice(0, a), "valid": slice(a, b), "test": slice(b, None)}[which]
        return self.x[rows], self.y[rows]

    @property
    def stages(self) -> int:
        """Resolutions of a network for them: halved while at least 4 x 4 pixels remain, three at most."""
        return max(1, min(3, int(np.log2(max(min(self.x.shape[2:]), 4) / 4)) + 1))


@lru_cache(maxsize=4)
def load(name: str = "digits") -> Images:
    """Return images by name (see above).

    Raises:
        DataError: file, field and value of what is wrong.
    """
    path = Path(name)
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = (np.asarray(values) for values in load_digits(return_X_y=True))
        x = x.reshape(-1, 8, 8) / 16
    elif path.is_dir():
        x, y = _folder(path)
    else:
        x, y = _archive(path)
    return _made(name, x, y)


def _made(name: str, x: np.ndarray, y: np.ndarray) -> Images:
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4 or len(x) != len(y) or y.ndim != 1:
        raise DataError("needs x [N, H, W] or [N, C, H, W] and y [N]", field=name, value=f"{x.shape}, {y.shape}")
    if x.shape[3] <= 4 < x.shape[1]:
        hint = "np.moveaxis(x, 3, 1) has them where they belong"
        raise DataError("has its channels last", field=f"{name}: x", value=str(x.shape), hint=hint)
    if len(x) < LEAST or min(x.shape[2:]) < 4:
        raise DataError(f"needs at least {LEAST} images of 4 x 4 pixels", field=name, value=str(x.shape))
    kinds, classes = np.unique(y, return_inverse=True)
    if len(kinds) < 2 or not np.issubdtype(y.dtype, np.integer):
        raise DataError("needs whole numbers of at least two classes", field=f"{name}: y", value=str(kinds[:3]))
    if not np.isfinite(x).all():
        raise DataError("has values that are not finite", field=f"{name}: x")
    order = np.random.default_rng([len(x), 201]).permutation(len(x))
    x, classes = x[order].astype(np.float32), classes[order]
    cut = (round(0.7 * len(x)), round(0.85 * len(x)))
    mean, std = (getattr(x[: cut[0]], f)(axis=(0, 2, 3), keepdims=True) for f in ("mean", "std"))
    x = (x - mean) / np.maximum(std, 1e-6)
    return Images(name, torch.from_numpy(x), torch.from_numpy(classes).long(), len(kinds), cut)


def _archive(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {"x", "y"} - set(file.files)
            if missing:
                raise DataError("lacks an array", field=str(path), value=sorted(missing)[0], choices=file.files)
            x, y = file["x"], file["y"]
    except (OSError, ValueError, EOFError) as error:
        hint = "give digits, FILE.npz with x and y, or a folder of one folder for each class"
        raise DataError(f"cannot be read ({error})", field=str(path), hint=hint) from None
    if x.dtype.kind not in "iufb":
        raise DataError("must be numbers", field=f"{path}: x", value=str(x.dtype))
    return (x / 255 if x.dtype == np.uint8 else x), y


def _folder(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    kinds = sorted(p for p in path.iterdir() if p.is_dir())
    files = [(f, k) for k, p in enumerate(kinds) for f in sorted(p.iterdir()) if f.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError("has no folders with pictures", field=str(path), hint="one folder for each class")
    size, out = None, []
    for file, _ in files:
        try:
            with Image.open(file) as picture:
                size = size or picture.size
                out.append(np.asarray(picture.convert("RGB").resize(size), dtype=np.uint8))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read ({error})", field=str(file)) from None
    return np.stack(out).transpose(0, 3, 1, 2) / 255, np.array([k for _, k in files])
