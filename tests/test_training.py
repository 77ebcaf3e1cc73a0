import numpy as np
import pytest

from lstm_ae_lib import training
from lstm_ae_lib._backend import keras

pytestmark = pytest.mark.backends


def test_the_rate_is_constant_and_then_falls_to_zero():
    rate = training.Cooldown(0.004, steps=1000, share=0.2)
    values = [float(rate(step)) for step in (0, 500, 800, 900, 1000, 1200)]
    np.testing.assert_allclose(values, [0.004, 0.004, 0.004, 0.002, 0.0, 0.0], atol=1e-9)


def test_it_survives_its_config_and_drives_an_optimizer():
    rate = training.Cooldown(0.5, steps=4, share=1.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert again.get_config() == rate.get_config()
    variable = keras.Variable(0.0)
    optimizer = keras.optimizers.SGD(again)
    moved = []
    for _ in range(5):
        before = float(keras.ops.convert_to_numpy(variable))
        optimizer.apply([keras.ops.ones(())], [variable])
        moved.append(before - float(keras.ops.convert_to_numpy(variable)))
    np.testing.assert_allclose(moved, [0.5, 0.375, 0.25, 0.125, 0.0], atol=1e-6)


@pytest.mark.parametrize("arguments", [(0.0, 10), (2.0, 10), (0.1, 0), (0.1, 10, 0.0), (0.1, 10, 1.5)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        training.Cooldown(*arguments)
