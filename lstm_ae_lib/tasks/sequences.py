"""Pictures of one scene, taken one after the other: the last one restored, with what the ones before have shown.

A recurrent network of :mod:`lstm_ae_lib.tasks.bursts` goes from frame to frame, tile by tile; what it remembers takes 19 numbers a
pixel, however many frames there are. From a frame to the next, each tile may have moved by up to 3 pixels.
"""

import functools
import itertools
from pathlib import Path

import numpy as np

from lstm_ae_lib import files, pictures, restoring, weights
from lstm_ae_lib.tasks import bursts

FOLDER, DEFAULT = "burst", "default"


def load_step(name: str = "", folder=None):
    """Released weights of a recurrent burst restorer, as a function of an image's shape that gives one step of it; and their card.

    Errors are those of :func:`lstm_ae_lib.weights.read_released`.
    """
    network, description = weights.read_released(name or DEFAULT, folder or weights.released_dir(FOLDER))
    step = functools.lru_cache(maxsize=4)(lambda image_shape: bursts.step_of(description["arguments"], network, image_shape))
    return step, description["card"]


def restore(frames, step, *, tile: int = restoring.TILE, overlap: int = restoring.OVERLAP, progress: bool = False) -> np.ndarray:
    """The last of several pictures of one scene, restored.

    Args:
        frames: oldest first, one or more, each as for :func:`lstm_ae_lib.pictures.check_pixels`, all of one height and width, from
            9 pixels on; any iterable, of which one picture at a time is kept.
        step: of a shape ``(height, width, 3)``, the model that :func:`lstm_ae_lib.tasks.bursts.step_of` gives.
        tile, overlap: as for :func:`lstm_ae_lib.restoring.restore`.
        progress: show a bar.

    Returns the shape and dtype of the last frame; its alpha is kept. Raises ``ValueError`` for no frame, frames of different sizes,
    and what is no picture.
    """
    model, places, states, first, frame = None, [], [], None, None
    if progress:
        import tqdm

        frames = tqdm.tqdm(frames, unit=" frames")
    for number, frame in enumerate(frames, 1):
        pictures.check_pixels(frame)
        if first is None:
            first = frame.shape[:2]
            if min(first) < 9:
                raise ValueError(f"frames must be at least 9 pixels high and wide, got {first[0]} x {first[1]}")
            places = list(itertools.product(*(restoring.blended(length, tile, overlap) for length in first)))
        if frame.shape[:2] != first:
            size, other = (f"{shape[1]} x {shape[0]}" for shape in (first, frame.shape))
            raise ValueError(f"all frames must have one size: the first has {size} pixels, frame {number} has {other}")
        for place, ((rows, _), (columns, _)) in enumerate(places):
            seen = pictures.to_colours(frame[rows, columns])[None]
            margins = [(0, 0), *((0, side % 2) for side in seen.shape[1:3]), (0, 0)]  # to even sides
            seen = np.pad(seen, margins, mode="reflect").astype(np.float32)
            if model is None:
                model = step(seen.shape[1:])
            if number == 1:
                states.append([seen, np.zeros((*seen.shape[:3], model.inputs[2].shape[-1]), np.float32)])
            states[place] = [np.asarray(part) for part in model.predict_on_batch([seen, *states[place]])]
    if frame is None:
        raise ValueError("there must be at least one frame")
    restored = np.zeros((*first, 3), np.float32)
    for ((rows, down), (columns, across)), (estimate, _) in zip(places, states, strict=True):
        height, width = restored[rows, columns].shape[:2]
        restored[rows, columns] += down[:, None, None] * across[:, None] * np.clip(estimate[0, :height, :width], 0, 1)
    return pictures.from_colours(restored, frame)


def restore_files(sources, target, name: str = "", *, quality: int = pictures.QUALITY, progress: bool = False) -> tuple:
    """Restores the last of several PNG or JPEG files, oldest first, and keeps its metadata. Returns the shape of what was written.

    ``name`` is that of weights in ``data/weights/burst``. Raises as :func:`restore`, :func:`lstm_ae_lib.pictures.read` and
    :func:`lstm_ae_lib.pictures.write`, and ``FileExistsError`` for a ``target`` that is there.
    """
    if not sources:
        raise ValueError("frames must be pictures, at least one, got none")
    for source in sources:
        if Path(source).is_dir():
            raise ValueError(f"frames must be pictures, got the folder {source}")
        files.check_source(source)
        pictures.check_target(target, source)
    if Path(target).exists():  # or a forgotten name of the result costs the last frame
        raise FileExistsError(f"after the frames comes the name of a new picture; {target} is there already")
    last, metadata = pictures.read_with_metadata(sources[-1])
    pictures.check_holds(last, Path(target).suffix, pictures.title(sources[-1]))
    frames = itertools.chain(map(pictures.read, sources[:-1]), [last])
    restored = restore(frames, load_step(name)[0], progress=progress)
    pictures.write(target, restored, metadata, quality)
    return restored.shape
