"""Writing films: GIF, MP4, or the last frame as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mir2bench.errors import MissingDependencyError
from mir2bench.evaluation.files import replace_file

SUFFIXES = (".gif", ".mp4", ".png")
_COLORS = 128  # of a GIF's palette; the drawings use few, and smaller files travel better


def write_film(path: Path, frames: Sequence[np.ndarray], fps: int) -> None:
    """Write frames (H, W, 3) uint8 to a file, whole or not at all; a .png gets the last one alone.

    Raises:
        StorageError: the disk is full, read-only or broken.
        MissingDependencyError: an .mp4 without imageio-ffmpeg.
    """
    from PIL import Image

    suffix = path.suffix.lower()
    if suffix == ".png":
        replace_file(path, lambda temporary: Image.fromarray(frames[-1]).save(temporary, format="PNG"))
    elif suffix == ".gif":
        replace_file(path, lambda temporary: _write_gif(temporary, frames, fps))
    else:
        replace_file(path, lambda temporary: _write_mp4(temporary, frames, fps))


def _write_gif(path: Path, frames: Sequence[np.ndarray], fps: int) -> None:
    from PIL import Image

    # One palette for the whole film, taken from its start, middle and end: colors cannot flicker.
    sample = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
    palette = Image.fromarray(sample).quantize(_COLORS, method=Image.Quantize.MEDIANCUT)
    images = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    pauses = [round(1000 / fps)] * (len(images) - 1) + [1500]  # ms; a rest before it starts again
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=pauses, loop=0, optimize=True)


def _write_mp4(path: Path, frames: Sequence[np.ndarray], fps: int) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise MissingDependencyError(
            "an .mp4 needs the package `imageio-ffmpeg`, which is not installed. Run: pip install imageio-ffmpeg"
        ) from error
    height, width = frames[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, output_params=["-f", "mp4"], macro_block_size=1
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
