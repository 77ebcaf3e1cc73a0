"""What every layer and every model must do, checked over the one list in conformance.py."""

import inspect

import conformance
import numpy as np
import pytest

from lstm_ae_lib import layers as layers_module
from lstm_ae_lib import weights
from lstm_ae_lib._backend import keras

pytestmark = pytest.mark.backends

layers = pytest.mark.parametrize("case", conformance.LAYERS, ids=str)
all_models = pytest.mark.parametrize("case", conformance.MODELS, ids=str)


def several(case):
    return isinstance(case.input_shape[0], tuple)


def each_input(case, make):
    """What ``make`` makes of the shape of the input; of several inputs, a list of what it makes of each."""
    return [make(shape) for shape in case.input_shape] if several(case) else make(case.input_shape)


def batch(case, count=2, seed=0):
    generator = np.random.default_rng(seed)
    return each_input(case, lambda shape: generator.random((count, *shape)).astype(np.float32))


def output_shape(case):
    return case.output_shape or (case.input_shape[0] if several(case) else case.input_shape)


def as_array(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


@pytest.fixture(autouse=True)
def same_weights_each_time():
    keras.utils.set_random_seed(0)


def randomise(model):
    generator = np.random.default_rng(1)
    model.set_weights([weight + 0.1 * generator.standard_normal(weight.shape) for weight in model.get_weights()])


def test_every_public_layer_and_builder_is_listed():
    listed = {case.name.split("-")[0] for case in conformance.LAYERS + conformance.MODELS}
    for module in conformance.LAYER_MODULES:
        for name, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, keras.layers.Layer) and value.__module__ == module.__name__ and not name.startswith("_"):
                is_base = value.call is keras.layers.Layer.call
                meant = {layer.__name__ for layer in value.__subclasses__()} if is_base else {name}
                assert meant and meant <= listed, f"{module.__name__}.{name} is not in tests/conformance.py"
    assert set(weights.BUILDERS) <= listed


def test_every_library_module_has_its_test_file():
    from pathlib import Path

    here, library = Path(__file__).parent, Path(layers_module.__file__).parent
    tested_elsewhere = {
        "__init__.py": "test_package", "__main__.py": "test_main", "_backend.py": "test_package", "layers.py": "test_conformance",
        "cifar10.py": "test_datasets", "spectral.py": "test_conformance", "fast/__init__.py": "test_fast_lstm",
        "fast/lstm.py": "test_fast_lstm", "fast/scan.py": "test_fast_scan", "fast/ahead.py": "test_datasets",
        "tasks/__init__.py": "test_weights", "tasks/codec.py": "test_compression", "tasks/uncertainty.py": "test_variational",
        "tasks/recurrent_inference.py": "test_models", "study/__init__.py": "test_package", "study/releasing.py": "test_restoring",
        "study/figures.py": "test_readme", "study/sample.py": "test_datasets", "tasks/picture_folder.py": "test_picture_batches",
        "study/notebooks.py": "test_make_notebooks", "study/page.py": "test_web", "study/book.py": "test_web",
        "study/clusters.py": "test_cluster_runs", "study/cluster_plugin.py": "test_cluster_runs",
        "study/bench_restoring.py": "test_bench", "study/bench_crops.py": "test_bench",
        "study/bench_flagship.py": "test_bench",
    }  # fmt: skip
    for module in sorted(library.rglob("*.py")):
        name = module.relative_to(library).as_posix()
        test = tested_elsewhere.pop(name, f"test_{module.stem}")
        assert (here / f"{test}.py").is_file(), f"lstm_ae_lib/{name} has no tests/{test}.py"
    assert not tested_elsewhere


@layers
def test_layer_is_registered_and_its_config_makes_it_again(case):
    layer = case.make(name="it")
    assert keras.saving.get_registered_name(type(layer)).startswith("lstm_ae_lib>")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        assert name in layer.get_config() or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), (
            f"{name} is not in the config"
        )


@layers
def test_layer_shapes_static_and_dynamic(case):
    layer, images = case.make(), batch(case)
    output = layer(images)
    assert tuple(output.shape) == tuple(layer.compute_output_shape(each_input(case, lambda shape: (2, *shape))))
    symbolic = case.make()(each_input(case, lambda shape: keras.KerasTensor((None, *shape))))
    assert tuple(symbolic.shape)[1:] == tuple(output.shape)[1:] and symbolic.shape[0] is None


@layers
def test_layer_survives_a_keras_file(case, tmp_path):
    inputs = each_input(case, keras.layers.Input)
    model = keras.Model(inputs, case.make()(inputs))
    randomise(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    images = batch(case)
    np.testing.assert_array_equal(as_array(again(images)), as_array(model(images)))


@layers
def test_layer_honours_the_dtype_policy(case):
    images = batch(case)
    layers = [case.make(dtype=policy) for policy in ("float32", "mixed_bfloat16")]
    for layer in layers:
        layer.build(each_input(case, lambda shape: (2, *shape)))
    layers[1].set_weights(layers[0].get_weights())
    exact, mixed = as_array(layers[0](images)), layers[1](images)
    assert keras.backend.standardize_dtype(mixed.dtype) == "bfloat16"
    assert np.abs(as_array(mixed) - exact).max() <= case.roundings * 2**-8 * np.abs(exact).max()


@all_models
def test_model_has_its_shape_and_survives_a_keras_file_and_a_weights_file(case, tmp_path):
    model, images = case.make(), batch(case)
    randomise(model)
    assert model.output_shape == (None, *output_shape(case))
    for count in (1, 3):
        assert tuple(model(batch(case, count)).shape) == (count, *output_shape(case))
    expected = as_array(model(images))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(as_array(keras.saving.load_model(tmp_path / "model.keras")(images)), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    again = case.make()
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(as_array(again(images)), expected)


@all_models
def test_one_training_step_moves_every_weight_and_lowers_the_loss(case):
    keras.utils.set_random_seed(0)
    model = case.make()
    randomise(model)  # from zero, some weights have no gradient in the first step
    model.compile(optimizer=keras.optimizers.SGD(case.rate), loss="mse")
    model.optimizer.build(model.trainable_variables)  # or the step would be traced twice, once to make these
    degraded, clean = batch(case, 8, seed=1), np.random.default_rng(2).random((8, *output_shape(case))).astype(np.float32)
    before = [weight.copy() for weight in model.get_weights()]
    trained = {id(variable) for variable in model.trainable_variables}
    losses = [float(model.train_on_batch(degraded, clean, return_dict=True)["loss"]) for _ in range(5)]
    for old, new, variable in zip(before, model.get_weights(), model.weights, strict=True):
        # The fitted start of a network: a linear filter, principal components; a cosine transform.
        fixed = variable.path.startswith("linear/") or (
            ("components" in case.name or "any_rate" in case.name) and id(variable) not in trained and "seed" not in variable.path)
        assert np.array_equal(old, new) == fixed, f"{variable.path} {'moved' if fixed else 'did not move'}"
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


@all_models
def test_model_agrees_with_itself_under_mixed_bfloat16(case):
    model = case.make()
    randomise(model)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = case.make()
    finally:
        keras.config.set_dtype_policy(before)
    mixed.set_weights(model.get_weights())
    images = batch(case)
    exact = as_array(model(images))
    assert np.abs(as_array(mixed(images)) - exact).max() <= case.roundings * 2**-8 * np.abs(exact).max()


def gradient(layer, images):
    """Of the sum of squares of a layer's outputs, to all its inputs, one after the other, on whichever backend."""
    each = keras.tree.map_structure
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        images = each(tf.constant, images)
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.square(layer(images)))
        found = tape.gradient(loss, images)
    elif keras.backend.backend() == "torch":
        import torch

        images = each(lambda one: torch.tensor(one, requires_grad=True), images)
        found = list(torch.autograd.grad(torch.sum(torch.square(layer(images))), keras.tree.flatten(images)))
    else:
        import jax

        kinds = layer.trainable_variables, layer.non_trainable_variables
        weights = [[variable.value for variable in kind] for kind in kinds]
        found = jax.grad(lambda images: jax.numpy.sum(layer.stateless_call(*weights, images)[0] ** 2))(images)
    return np.concatenate([as_array(one).ravel() for one in keras.tree.flatten(found)])


@pytest.mark.parametrize("case", [case for case in conformance.LAYERS if case.differentiable], ids=str)
def test_layer_gives_the_same_gradient_twice_and_it_is_finite(case):
    layer, images = case.make(), batch(case)
    layer(images)
    gradients = [gradient(layer, images) for _ in range(2)]
    np.testing.assert_array_equal(*gradients)
    assert np.isfinite(gradients[0]).all() and np.abs(gradients[0]).max() > 0


# --- what only one of them does -------------------------------------------------------------------------------------------


def test_rows_are_the_images_rows():
    from lstm_ae_lib.layers import ImageToRows, RowsToImage

    images = np.arange(2 * 3 * 4 * 3, dtype=np.float32).reshape(2, 3, 4, 3)
    rows = ImageToRows()(images)
    np.testing.assert_array_equal(as_array(rows)[1, 2], images[1, 2].ravel())
    np.testing.assert_array_equal(as_array(RowsToImage(3)(rows)), images)


def test_rows_work_for_an_unknown_height():
    from lstm_ae_lib.layers import ImageToRows, RowsToImage

    inputs = keras.layers.Input((None, 4, 3))
    model = keras.Model(inputs, RowsToImage()(ImageToRows()(inputs)))
    for height in (2, 5):
        images = np.random.default_rng(0).random((1, height, 4, 3)).astype(np.float32)
        np.testing.assert_array_equal(as_array(model(images)), images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conformance.layers.RowsToImage(0), "channels must be a whole number from 1 to 4096, got 0"),
        (
            lambda: conformance.layers.RowsToImage(3)(np.zeros((1, 2, 4), np.float32)),
            r"RowsToImage needs \(batch, height, width \* 3\)",
        ),
        (lambda: conformance.layers.ImageToRows()(np.zeros((1, 2, 4), np.float32)), "ImageToRows needs"),
        (lambda: conformance.spectral.SpectralWiener("dft"), "transform must be one of dct1, dct2; got 'dft'"),
        (lambda: conformance.spectral.SpectralWiener().build((None, None, 8, 3)), "of a known size"),
        (lambda: conformance.spectral.SpectralMixture().build((None, 8, 8, 1)), "SpectralMixture needs images"),
        (lambda: conformance.spectral.SpectralMixture(bands=0), "bands must be a whole number from 1 to 4096, got 0"),
        (lambda: conformance.spectral.cosine_basis(1, "dct1"), "size must be a whole number from 2"),
    ],
)
def test_layers_refuse_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("transform", ["dct1", "dct2"])
@pytest.mark.parametrize("size", [2, 7, 32])
def test_cosine_basis_equals_scipys(transform, size):
    import scipy.fft

    from lstm_ae_lib.spectral import cosine_basis

    forward, inverse = cosine_basis(size, transform)
    np.testing.assert_allclose(forward @ inverse, np.eye(size), atol=1e-12)
    values = np.random.default_rng(0).random(size)
    expected = scipy.fft.dct(values, type=int(transform[-1]), norm="ortho" if transform == "dct2" else None)
    scale = 1 if transform == "dct2" else 0.5 * np.sqrt(2 / (size - 1))
    np.testing.assert_allclose(forward @ values, expected * scale, atol=1e-12)
