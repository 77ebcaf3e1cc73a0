"""A picture of one's own, in Jupyter and Colab."""

import numpy as np

from lstm_ae_lib import pictures


def button():
    """A button with which a person chooses a PNG or JPEG file; :func:`picture` reads it."""
    import ipywidgets

    return ipywidgets.FileUpload(accept=",".join(pictures.SUFFIXES), multiple=False)


def picture(button) -> np.ndarray:
    """The picture chosen with a :func:`button`, as from :func:`lstm_ae_lib.pictures.read`. Raises ``ValueError`` where none was
    chosen, and as that."""
    chosen = list(button.value.values() if isinstance(button.value, dict) else button.value)  # a dictionary before ipywidgets 8
    if not chosen:
        raise ValueError("no picture was chosen: use the button above, then run this cell again")
    return pictures.read(bytes(chosen[0]["content"]))
