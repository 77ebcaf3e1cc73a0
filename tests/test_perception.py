import numpy as np
import pytest

from lstm_ae_lib import cifar10, degradations, keras, weights
from lstm_ae_lib.tasks import perception


@pytest.fixture(scope="module")
def images():
    return cifar10.load_cifar10("sample")


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    return perception.Classifier(perception.classifier(width=4))


def gaussians(count, size=6, seed=0, mean=0.0, scale=1.0):
    return mean + scale * np.random.default_rng(seed).standard_normal((count, size))


def test_frechet_distance_of_known_gaussians():
    one = gaussians(50_000)
    assert perception.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    # A shift of 0.5 in six dimensions and a standard deviation of 2 instead of 1: 6 * 0.25 + 6 * (2 - 1)^2.
    assert perception.frechet_distance(one, gaussians(50_000, seed=1, mean=0.5, scale=2.0)) == pytest.approx(7.5, rel=0.02)
    # Covariances that do not commute, against scipy's matrix root.
    import scipy.linalg

    generator = np.random.default_rng(2)
    first, second = (one @ generator.standard_normal((6, 6)) for _ in range(2))
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert perception.frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_too_large_from_few_images_and_the_kernel_distance_is_not():
    small, large = (
        np.mean([perception.frechet_distance(gaussians(count, seed=s), gaussians(count, seed=100 + s)) for s in range(20)])
        for count in (30, 300)
    )
    assert small > 4 * large > 0
    blocks = [perception.kernel_distances(gaussians(30, seed=s), gaussians(30, seed=100 + s))[0] for s in range(400)]
    assert abs(np.mean(blocks)) < 3 * np.std(blocks) / 20 and np.std(blocks) > 0


def test_kernel_distance_by_hand():
    one, two = gaussians(4, 2, 1), gaussians(4, 2, 2)
    kernel = lambda a, b: (a @ b / 2 + 1) ** 3  # noqa: E731
    total = sum(
        kernel(one[i], one[j]) + kernel(two[i], two[j]) - kernel(one[i], two[j]) - kernel(one[j], two[i])
        for i in range(4) for j in range(4) if i != j
    )  # fmt: skip
    assert perception.kernel_distances(one, two, 4) == pytest.approx([total / 12])
    assert len(perception.kernel_distances(gaussians(10), gaussians(10, seed=1), 4)) == 2
    np.testing.assert_array_equal(perception.kernel_distances(one, one), [0])


def test_intervals_hold_the_distance_and_narrow_with_images():
    widths = []
    for count in (100, 1600):
        pair = gaussians(count), gaussians(count, seed=1, mean=0.5)
        low, high = perception.frechet_interval(*pair)
        assert 0 <= low < perception.frechet_distance(*pair) < high
        widths.append(high - low)
    assert 2 < widths[0] / widths[1] < 8


@pytest.mark.parametrize(("count", "block", "shift"), [(100, 1000, 0.3), (120, 40, 0.7), (60, 1000, 0.0)])
def test_the_kernel_interval_holds_the_distance_as_often_as_it_says(count, block, shift):
    """Of 200 samples, from one block or several; where the distributions are the same it is wider than needed, by 2^(1/2)."""
    generator = np.random.default_rng(3)

    def pair(count):
        first = generator.standard_normal((count, 6))
        return first, generator.standard_normal((count, 6)) + shift

    truth = perception.kernel_distances(*pair(50_000), 500).mean()
    found = []
    for _ in range(200):
        sample = pair(count)
        low, high = perception.kernel_interval(*sample, block)
        found.append((low, high, perception.kernel_distances(*sample, block).mean()))
    low, high, distance = np.array(found).T
    assert (low < distance).all() and (distance < high).all()
    assert np.mean((low <= truth) & (truth <= high)) > 0.9
    assert (high - low).mean() / (2 * 1.96 * distance.std()) == pytest.approx(1 if shift else 2**0.5, abs=0.2)


def test_the_kernel_interval_of_500_images_is_as_wide_as_500_images_scatter():
    pair = gaussians(500), gaussians(500, seed=1, mean=0.3)
    low, high = perception.kernel_interval(*pair)
    scatter = [perception.kernel_distances(gaussians(500, seed=s), gaussians(500, seed=99 + s, mean=0.3))[0] for s in range(2, 62)]
    assert high - low == pytest.approx(2 * 1.96 * np.std(scatter), rel=0.3)


def test_the_kernel_interval_of_copies_and_of_too_few_images():
    one, two = gaussians(30), gaussians(30, seed=1)
    assert perception.kernel_interval(one, one) == (0, 0)
    assert perception.kernel_interval(one[:9], two[:9]) == (None, None)
    low, high = perception.kernel_interval(one[:10], two[:10])
    assert low < perception.kernel_distances(one[:10], two[:10])[0] < high


def test_the_interval_comes_from_the_same_images_as_the_distance():
    one, two = gaussians(25), gaussians(25, seed=1)
    assert perception.kernel_interval(one, two, 10) == perception.kernel_interval(one[:20], two[:20], 10)


def test_distances_grow_with_blur_and_copies_are_at_zero(classifier, images):
    clean, labels = images.test_images[:200], images.test_labels[:200]
    found = [
        perception.evaluate(classifier, clean, degradations.degrade(clean, degradations.get_protocol("gauss2", sigma)), labels)
        for sigma in (0.6, 1.0, 2.0, 3.0)
    ]
    for name, rising in (("frechet", 1), ("kernel_distance", 1), ("gradient_energy", -1)):
        values = np.array([one[name] for one in found])
        assert (np.diff(values) * rising > 0).all(), (name, values)
    copy = perception.evaluate(classifier, clean, clean, labels)
    assert copy["frechet"] == pytest.approx(0, abs=1e-9) and copy["kernel_distance"] == 0 and copy["gradient_energy"] == 1
    assert copy["accuracy_low"] <= copy["accuracy"] <= copy["accuracy_high"]
    assert all(one["kernel_distance_low"] < one["kernel_distance"] < one["kernel_distance_high"] for one in found)
    floating = perception.evaluate(classifier, clean, clean / np.float32(255), labels)
    assert floating["frechet"] == pytest.approx(0, abs=1e-6)


def test_accuracy_is_the_share_of_right_classes(classifier, images):
    clean = images.test_images[:50]
    seen = classifier.look(clean)[1]
    assert perception.evaluate(classifier, clean, clean, seen)["accuracy"] == 1
    assert perception.evaluate(classifier, clean, clean, (seen + 1) % 10)["accuracy"] == 0


def test_gradient_energy_by_hand():
    image = np.zeros((1, 2, 2, 3))
    image[:, :, 1] = 0.5  # a step of a half from left to right, none from top to bottom
    assert perception.gradient_energy(image) == pytest.approx([0.125])
    assert perception.gradient_energy(np.full((2, 4, 4, 3), 7, np.uint8)) == pytest.approx([0, 0])


def test_a_classifier_is_written_and_read(classifier, images, tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no released weights in"):
        perception.load_classifier(folder=tmp_path)
    weights.write(classifier.model, tmp_path, "small", "classifier", {"width": 4}, card={"accuracy": 0.1})
    again = perception.load_classifier("small", tmp_path)
    assert again.card == {"accuracy": 0.1}
    for one, other in zip(again.look(images.test_images[:5]), classifier.look(images.test_images[:5]), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="weights must be one of small; got 'large'"):
        perception.load_classifier("large", tmp_path)


def test_bad_input_is_refused(classifier, images):
    clean, labels = images.test_images[:10], images.test_labels[:10]
    with pytest.raises(ValueError, match=r"the classifier sees images of \(32, 32, 3\), got \(16, 16, 3\)"):
        classifier.look(clean[:, :16, :16])
    with pytest.raises(ValueError, match="images must lie in"):
        classifier.look(clean * np.float32(1))
    with pytest.raises(ValueError, match="clean and restored must have the same shape"):
        perception.evaluate(classifier, clean, clean[:5], labels)
    with pytest.raises(ValueError, match="labels must be one for each of the 10 images"):
        perception.evaluate(classifier, clean, clean, labels[:5])
    with pytest.raises(ValueError, match="features must be finite numbers"):
        perception.frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="both must have the same features, got 3 and 2"):
        perception.frechet_distance(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="block must be"):
        perception.kernel_distances(np.zeros((4, 3)), np.zeros((4, 3)), 1)
    with pytest.raises(ValueError, match="resamples must be"):
        perception.frechet_interval(np.zeros((4, 3)), np.zeros((4, 3)), resamples=1)


def test_released_classifiers_say_what_they_can(images):
    names = weights.released(weights.released_dir("classify"))
    assert "default" in names
    for name in names:
        classifier = perception.load_classifier(name)
        seen = classifier.look(images.test_images)[1]
        # 250 test images of the sample: three standard errors of a share.
        wanted = classifier.card["accuracy"]
        assert abs(np.mean(seen == images.test_labels) - wanted) < 3 * np.sqrt(wanted * (1 - wanted) / len(seen))
        assert wanted >= 0.8


def test_labelled_batches_are_shuffled_mirrored_and_moved():
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40) % 10
    whole = perception.labelled_batches(images, labels, 16, seed=3, shift=2)
    found = [(batch.numpy(), names.numpy()) for batch, names in whole.take(6)]
    assert [len(names) for _, names in found] == [16, 16, 8] * 2
    epochs = [np.concatenate([names for _, names in found[start : start + 3]]) for start in (0, 3)]
    assert all((np.bincount(epoch) == 4).all() for epoch in epochs) and (epochs[0] != epochs[1]).any()
    # Each is the image of its class that was moved and perhaps mirrored: look for it among all that it can be.
    wider, moves, mirrored = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="reflect"), set(), 0
    for image, name in zip(*found[0], strict=True):
        image = np.rint(image * 255).astype(np.uint8)
        places = [
            (flip, row, column)
            for index in np.flatnonzero(labels == name) for flip in (False, True) for row in range(5) for column in range(5)
            if (wider[index, row : row + 32, column : column + 32][:, :: -1 if flip else 1] == image).all()
        ]  # fmt: skip
        assert len(places) == 1
        mirrored += places[0][0]
        moves.add(places[0][1:])
    assert 0 < mirrored < 16 and len(moves) > 5
    later = perception.labelled_batches(images, labels, 16, seed=3, shift=2, first_epoch=1, first_step=1)
    np.testing.assert_array_equal(next(iter(later))[0], found[4][0])
    still = next(iter(perception.labelled_batches(images, labels, 40, seed=0, shift=0)))
    assert {image.tobytes() for image in np.rint(still[0].numpy() * 255).astype(np.uint8)} <= {
        image.tobytes() for image in np.concatenate([images, images[:, :, ::-1]])
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": np.zeros(3, int)}, "labels must be 4 whole numbers"),
        ({"labels": np.zeros(4)}, "labels must be 4 whole numbers, got float64"),
        ({"shift": 17}, "shift must be a whole number from 0 to 16, got 17"),
        ({"labels": [0, [1, 2]]}, "labels must be an array of numbers, got list"),
        ({"images": np.zeros((4, 32, 32, 3))}, "images must be uint8"),
        ({"batch_size": 5}, "batch_size must be a whole number from 1 to 4, got 5"),
    ],
)
def test_labelled_batches_refuse_bad_arguments(arguments, message):
    given = {"images": np.zeros((4, 32, 32, 3), np.uint8), "labels": np.zeros(4, int), "batch_size": 2, "seed": 0}
    with pytest.raises(ValueError, match=message):
        perception.labelled_batches(**given | arguments)
