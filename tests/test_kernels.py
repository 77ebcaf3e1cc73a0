import cv2
import numpy as np
import pytest

from lstm_ae_lib import kernels

CATALOGUE = {
    "gaussian": kernels.gaussian(2.0, 2.0, 0.0, 15),
    "elliptic": kernels.gaussian(2.5, 0.6, 0.7, 15),
    "motion": kernels.motion(9.3, 2.2, 15),
    "disc": kernels.disc(3.4, 15),
}
each = pytest.mark.parametrize("kernel", CATALOGUE.values(), ids=CATALOGUE)


@each
def test_a_kernel_is_even_sums_to_one_and_is_symmetric(kernel):
    assert kernel.dtype == np.float32 and kernel.shape == (15, 15) and kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)


@each
def test_a_constant_stays_constant_and_channels_do_not_mix(kernel):
    image = np.zeros((20, 31, 3), np.float32)
    image[..., 1] = 0.7
    np.testing.assert_allclose(kernels.blur(image, kernel), image, atol=1e-6)


@each
def test_an_impulse_gives_the_kernel(kernel):
    image = np.zeros((31, 41, 3), np.float32)
    image[15, 20, 2] = 1
    np.testing.assert_allclose(kernels.blur(image, kernel)[8:23, 13:28, 2], kernel, atol=1e-6)


@each
def test_blurring_is_its_own_adjoint_away_from_the_border(kernel):
    generator = np.random.default_rng(0)
    x, y = (np.pad(generator.random((16, 16, 1), np.float32), [(15, 15), (15, 15), (0, 0)])[..., 0] for _ in range(2))
    assert (kernels.blur(x, kernel) * y).sum() == pytest.approx((x * kernels.blur(y, kernel)).sum(), rel=1e-5)


def test_a_round_gaussian_is_opencvs():
    taps = cv2.getGaussianKernel(15, 2.0)
    np.testing.assert_allclose(CATALOGUE["gaussian"], taps @ taps.T, rtol=1e-5)


def test_an_ellipse_has_its_two_deviations_and_its_angle():
    angle = 0.7
    kernel = kernels.gaussian(2.0, 1.0, angle, 31).astype(float)
    down, right = np.mgrid[-15:16, -15:16]
    covariance = np.cov(np.stack([right.ravel(), down.ravel()]), aweights=kernel.ravel(), ddof=0)
    direction = np.array([np.cos(angle), np.sin(angle)])
    assert direction @ covariance @ direction == pytest.approx(4, rel=0.01)
    assert np.linalg.eigvalsh(covariance) == pytest.approx([1, 4], rel=0.01)


@pytest.mark.parametrize("angle", [0.0, np.pi / 2])
def test_motion_along_an_axis_is_a_line_of_its_length(angle):
    kernel = kernels.motion(7.0, angle, 15)
    line = (kernel.T if angle else kernel)[7]
    assert kernel.sum() == pytest.approx(line.sum()) and np.count_nonzero(line > 0.01) == 7
    np.testing.assert_allclose(line[5:10], 1 / 6, rtol=2e-3)  # six pixels of way, the first and last half of one
    np.testing.assert_allclose(line[[4, 10]], 1 / 12, rtol=2e-3)


def test_motion_of_one_pixel_is_none_and_a_diagonal_goes_down_to_the_right():
    one = np.zeros((5, 5))
    one[2, 2] = 1
    np.testing.assert_allclose(kernels.motion(1.0, 0.3, 5), one, atol=1e-6)
    diagonal = kernels.motion(9.0, np.pi / 4, 15)
    assert diagonal[9, 9] > 0.05 and diagonal[9, 5] == 0


def test_a_disc_has_its_area():
    kernel = kernels.disc(3.5, 15, samples=32)
    assert 1 / kernel.max() == pytest.approx(np.pi * 3.5**2, rel=0.01)
    np.testing.assert_allclose(kernels.disc(0.06, 3), [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.gaussian(0.0, 1.0, 0.0, 15), "sigma_along must be a number from 0.05 to 64, got 0.0"),
        (lambda: kernels.gaussian(1.0, np.nan, 0.0, 15), "sigma_across must be a number from 0.05 to 64, got nan"),
        (lambda: kernels.motion(14.0, 0.0, 15), "length must be a number from 1 to 13, got 14.0"),
        (lambda: kernels.motion(3.0, np.inf, 15), "angle must be a number from -1e.06 to 1e.06, got inf"),
        (lambda: kernels.disc(3.0, 14), "side must be odd, got 14"),
        (lambda: kernels.disc(9.0, 15), "radius must be a number from 0.05 to 7.5, got 9.0"),
        (lambda: kernels.disc(3.0, 15.0), "side must be a whole number from 3 to 129, got 15.0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
