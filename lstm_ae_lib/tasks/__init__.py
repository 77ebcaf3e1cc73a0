"""One module a task: its networks, and what its notebook measures. Importing this package makes all its builders known."""

from lstm_ae_lib.tasks import adversarial, codec, compression, perception, photographs, recurrent_inference, uncertainty, variational  # noqa: F401
