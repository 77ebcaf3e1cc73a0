"""One module a task: its networks, and what its notebook measures. Importing this package makes all its builders known."""

from lstm_ae_lib.tasks import (  # noqa: F401
    adversarial, broken_jpeg, bursts, codec, compression, mending, pages, perception, photographs, picture_folder,
    recurrent_inference, trust, uncertainty, variational,
)  # fmt: skip
