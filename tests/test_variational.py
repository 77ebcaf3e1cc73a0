import math

import numpy as np
import pytest

from lstm_ae_lib import cifar10, datasets, degradations, keras, metrics, weights
from lstm_ae_lib.tasks import uncertainty, variational


@pytest.fixture(scope="module")
def images():
    clean = cifar10.load_cifar10("sample").train_images[:64]
    return clean, degradations.degrade(clean, "gauss2") / np.float32(255)


@pytest.fixture(scope="module")
def generating(images):
    keras.utils.set_random_seed(0)
    model = variational.variational_autoencoder(latent=8, width=8)
    model.compile(keras.optimizers.Adam(0.003), loss=variational.gaussian_nll)
    model.optimizer.build(model.trainable_variables)  # else the step is traced twice, once to make these
    unit = images[0] / np.float32(255)
    history = model.fit(unit, unit, batch_size=16, epochs=8, verbose=0)
    return model, history.history


@pytest.fixture(scope="module")
def restoring(images):
    keras.utils.set_random_seed(0)
    model = variational.conditional_vae(width=8, latent=2, linear_start="")
    model.compile(keras.optimizers.Adam(0.003), loss=variational.gaussian_nll)
    model.optimizer.build(model.trainable_variables)  # else the step is traced twice, once to make these
    unit = images[0] / np.float32(255)
    model.fit((images[1], unit), unit, batch_size=16, epochs=8, verbose=0)
    return model


def test_training_lowers_the_bound_and_reports_the_divergence(generating):
    _, history = generating
    assert history["loss"][-1] < history["loss"][0] - 0.1
    assert history["kl"][-1] > 0


def test_the_bound_is_what_training_has_minimised(generating, images):
    model, _ = generating
    found = uncertainty.elbo(model, images[0])
    # For a sigma far above a grey level, the part of the density on a value is density times width.
    density = 0.5 * math.log(2 * math.pi * math.e * found["sigma"] ** 2) + math.log(255)
    expected = (density + found["nats"].mean() / 3072) / math.log(2)
    # Values at 0 and 255 have more than their width of the density.
    assert expected * 0.97 < found["bits"].mean() <= expected * 1.0001
    assert found["units"].sum() == pytest.approx(found["nats"].mean(), rel=1e-5)
    assert uncertainty.elbo(model, images[0], sigma=2 * found["sigma"])["bits"].mean() > found["bits"].mean()


def test_a_sample_stays_near_the_image_that_its_posterior_has_seen(restoring, images):
    clean, degraded = images
    mean, log_variance, prior_mean, prior_log_variance = uncertainty.posterior(restoring, clean / np.float32(255), degraded)
    assert mean.shape == log_variance.shape == prior_mean.shape == prior_log_variance.shape == (64, 16, 16, 2)
    found = uncertainty.elbo(restoring, clean, degraded)
    assert found["units"].shape == (16, 16, 2) and (found["nats"] >= 0).all() and np.isfinite(found["bits"]).all()


def test_samples_differ_and_their_mean_is_closer(restoring, images):
    clean, degraded = images[0] / np.float32(255), images[1]
    samples = uncertainty.restore_samples(restoring, degraded, 6, seed=3)
    assert samples.shape == (6, *degraded.shape)
    assert samples.std(axis=0).mean() > 1e-4
    errors = np.square(samples - clean).mean(axis=(1, 2, 3, 4))
    assert np.square(samples.mean(axis=0) - clean).mean() < errors.mean()
    again = uncertainty.restore_samples(restoring, degraded, 6, seed=3, batch_size=250)
    np.testing.assert_array_equal(samples, again)
    centre = uncertainty.restore_samples(restoring, degraded, 0)
    assert centre.shape == (1, *degraded.shape)


def test_the_latent_costs_what_two_normal_distributions_are_apart():
    mean, log_variance, prior_mean, prior_log_variance = 0.3, math.log(0.5), -0.2, math.log(2.0)
    found = float(variational.gaussian_kl(mean, log_variance, prior_mean, prior_log_variance))
    z = np.random.default_rng(0).normal(mean, math.sqrt(0.5), 400_000)
    density = lambda at, centre, variance: -0.5 * ((at - centre) ** 2 / variance + math.log(2 * math.pi * variance))  # noqa: E731
    assert found == pytest.approx(np.mean(density(z, mean, 0.5) - density(z, prior_mean, 2.0)), abs=0.005)
    assert float(variational.gaussian_kl(0.0, 0.0)) == 0


def test_beta_rises_and_some_nats_are_free():
    statistics = np.concatenate([np.full((2, 3), 2.0), np.zeros((2, 3))], axis=-1).astype(np.float32)  # 2 nats each
    layer, losses = variational.LatentSample(beta=0.5, kl_warmup_steps=4), []
    for _ in range(6):
        layer(statistics, training=True)
        losses.append(float(sum(layer.losses)))
    assert losses == pytest.approx([0.75, 1.5, 2.25, 3, 3, 3])
    layer(statistics)
    assert not layer.losses
    free = variational.LatentSample(free_nats=2.5)
    free(statistics, training=True)
    assert float(sum(free.losses)) == pytest.approx(7.5)


def test_the_samples_have_the_posteriors_spread():
    statistics = np.zeros((20_000, 4), np.float32)
    statistics[:, :2], statistics[:, 2:] = 1.5, math.log(0.25)
    drawn = keras.ops.convert_to_numpy(variational.LatentSample(seed=1)(statistics, training=True))
    assert drawn.mean() == pytest.approx(1.5, abs=0.02) and drawn.std() == pytest.approx(0.5, rel=0.02)


def test_units_that_do_not_vary_are_not_active():
    mean = np.random.default_rng(0).standard_normal((500, 3)) * [1.0, 0.05, 0.0]
    np.testing.assert_array_equal(uncertainty.active_units(mean), [True, False, False])


def test_calibration_of_a_spread_that_is_right_and_of_one_that_is_not():
    generator = np.random.default_rng(0)
    spread = generator.uniform(0.1, 1.0, 50_000)
    right = uncertainty.calibration(spread, spread * generator.standard_normal(50_000), 5)
    np.testing.assert_allclose(right["error"], right["spread"], rtol=0.05)
    assert right["rank_correlation"] > 0.4
    wrong = uncertainty.calibration(spread, generator.standard_normal(50_000), 5)
    assert abs(wrong["rank_correlation"]) < 0.02


def test_a_run_records_what_a_model_knows(generating, images):
    model, _ = generating
    found = uncertainty.elbo(model, images[0])
    mean = uncertainty.posterior(model, images[0] / np.float32(255))[0]
    known = uncertainty.summarize_elbo(found, mean)
    assert known["bits"] == pytest.approx(found["bits"].mean()) and known["bits_low"] < known["bits"] < known["bits_high"]
    assert known["latent"] == 8 and known["used"] == uncertainty.active_units(mean).sum()
    assert known["latent_bits"] == pytest.approx(found["nats"].mean() / math.log(2) / 3072)
    collapsed = uncertainty.summarize_elbo(found, np.zeros_like(mean))
    assert collapsed["used"] == 0 and collapsed["latent"] == 8


def test_released_networks_come_back_as_a_pair(made, monkeypatch, tmp_path, capsys):
    from lstm_ae_lib import __main__
    from lstm_ae_lib.study import runs

    monkeypatch.setattr(weights, "released_dir", lambda kind="": tmp_path / "weights" / kind)
    with pytest.raises(FileNotFoundError, match="there are no released weights in"):
        uncertainty.load_released()
    sample = cifar10.load_cifar10("sample")
    run = runs.start_run("mine", {"seed": 0, "free_nats": 0.0}, sample, "gauss2")
    pair = {
        "autoencoder": ("conditional_vae", {"width": 4, "latent": 1}),
        "drawing": ("variational_autoencoder", {"width": 4, "latent": 3}),
    }
    for name, (builder, arguments) in pair.items():
        run.save_model(name, weights.build(builder, arguments), builder, arguments)
    summary = metrics.evaluate(sample.test_images[:9], sample.test_images[1:10])
    run.save_records([run.new_record(restorer="vae_mean", split="test", summary=summary)])
    assert __main__.main(["release", "mine", "small"]) == 2
    assert "only a finished run is released" in capsys.readouterr().err
    run.update(status="finished", training={}, variational={"drawing": {"bits": 5.0}, "restoring": {"bits": 4.0}})
    assert __main__.main(["release", "mine", "small"]) == 0
    assert "variational/small.json: conditional_vae" in capsys.readouterr().out
    network, drawing, card = uncertainty.load_released("small")
    assert network.get_layer("decoder").inputs[2].shape == (None, 16, 16, 1)
    assert drawing.get_layer("decoder").inputs[0].shape == (None, 3)
    assert card["drawing"] == {"bits": 5.0} and card["numbers"]["vae_mean"]["images"] == 9 and card["run"] == "mine"
    with pytest.raises(ValueError, match="weights must be one of small; got 'small-drawing'"):
        uncertainty.load_released("small-drawing")


def test_bad_input_is_refused(restoring, images):
    with pytest.raises(ValueError, match="count must be a whole number from 0"):
        uncertainty.restore_samples(restoring, images[1], -1)
    with pytest.raises(ValueError, match="degraded and clean must have the same shape"):
        uncertainty.posterior(restoring, images[1], images[1][:3])
    with pytest.raises(ValueError, match="spread and error must have the same shape"):
        uncertainty.calibration(np.ones(4), np.ones(5))
    with pytest.raises(ValueError, match="10 bins need as many values at least, got 4"):
        uncertainty.calibration(np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match="free_nats must be"):
        variational.variational_autoencoder(free_nats=-1)
    with pytest.raises(ValueError, match="width must be a multiple of 2, got 7"):
        variational.variational_autoencoder(width=7)
    with pytest.raises(ValueError, match="multiples of 4"):
        variational.variational_autoencoder((30, 32, 3))
    with pytest.raises(ValueError, match="image_shape must be known"):
        variational.conditional_vae((None, None, 3))
    with pytest.raises(ValueError, match="a last axis that 4 divides"):
        variational.LatentSample(True)(np.zeros((2, 6), np.float32))


def test_released_networks_restore_as_their_card_says():
    """One sample for each of the bundled test images, within what as many images scatter."""
    images = cifar10.load_cifar10("sample").test_images
    degraded = degradations.degrade(images, "gauss2") / np.float32(255)
    names = [name for name in weights.released(weights.released_dir("variational")) if not name.endswith("-drawing")]
    assert "default" in names
    for name in names:
        network, drawing, card = uncertainty.load_released(name)
        (one,) = np.clip(uncertainty.restore_samples(network, degraded, 1), 0, 1)
        assert metrics.evaluate(images, one)["psnr"] == pytest.approx(card["numbers"]["vae_sample"]["psnr"], abs=0.4)
        assert card["restoring"]["used"] > 0.1 * card["restoring"]["latent"]
        found = uncertainty.elbo(drawing, images, sigma=card["drawing"]["sigma"])
        assert found["bits"].mean() == pytest.approx(card["drawing"]["bits"], rel=0.03)


def test_with_clean_gives_the_clean_image_twice():
    clean = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    batches = datasets.evaluation_batches(degradations.degrade(clean, "gauss2"), clean, 4)
    (degraded, seen), wanted = next(iter(variational.with_clean(batches)))
    np.testing.assert_array_equal(seen, wanted)
    np.testing.assert_array_equal(degraded, next(iter(batches))[0])
