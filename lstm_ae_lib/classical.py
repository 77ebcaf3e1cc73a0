"""Restoration without a network: filters that are fitted in closed form, and the classical restorers, tuned.

Every restorer is used alike: made for a protocol, fitted to pairs of images, then called with degraded ones. Each is given what
the protocol makes known: kernel, border, mixed colours, bias. What it leaves open (strength, iterations, an unknown sigma) is
chosen by the error on the images it is fitted to. The algorithms are scikit-image's. (BM3D is not among them: the licence of its
reference implementation allows non-commercial use only.)
"""

import functools
import itertools

import numpy as np
import skimage  # its parts are imported when they are first used

from lstm_ae_lib import checks, degradations
from lstm_ae_lib._backend import keras
from lstm_ae_lib.spectral import cosine_basis, linear_filter, linear_mixture

TRUNCATED = np.float32(1.5 / 255)  # by how much cutting to whole grey levels after each of three axes darkens, in the mean


def fit_linear_filter(degraded, clean, transform: str, offset: bool = True, chunk: int = 2000):
    """Fits the linear minimum mean square error (LMMSE) filter of pairs of images.

    For every frequency of the cosine transform, the 3x3 matrix and the offset that bring the degraded colours closest to
    the clean ones in the mean over all pairs: ordinary least squares, solved exactly, 12 numbers from ``n`` pairs at each
    frequency. It is the baseline of the study: what a restorer can do that learns nothing but the pairs' second moments.

    Args:
        degraded, clean: ``(n, height, width, 3)``, n at least 8; uint8, or degraded float in units of [0, 1].
        transform: ``"dct1"`` or ``"dct2"``; ``Protocol.transform`` says which one fits.
        offset: without it the filter is 9 numbers at each frequency and cannot undo a bias, such as the 1.5 grey levels by which
            the truncation of the protocol ``reference`` darkens. Default True.
        chunk: images transformed at a time; bounds the memory.

    Returns a ``keras.Model``, not clipped: one :class:`~lstm_ae_lib.spectral.SpectralWiener` with the fitted weights. Raises
    ``ValueError`` for images of a wrong shape or dtype, too few of them, or an argument out of range.
    """
    degraded, clean = _pairs(degraded, clean, 8, chunk)
    count, height, width, _ = clean.shape
    checks.choice(offset, "offset", (True, False))
    rows, columns = cosine_basis(height, transform)[0], cosine_basis(width, transform)[0]

    def spectrum(images):
        values = images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)
        values = np.einsum("ih,nhwc->niwc", rows, values, optimize=True)
        return np.einsum("jw,niwc->ijnc", columns, values, optimize=True)

    inputs = 4 if offset else 3
    seen = np.zeros((height, width, inputs, inputs))
    wanted = np.zeros((height, width, inputs, 3))
    for start in range(0, count, chunk):
        target = spectrum(clean[start : start + chunk])
        observed = spectrum(degraded[start : start + chunk])
        if offset:  # a constant 1 beside the colours makes it part of the same least squares
            observed = np.concatenate([observed, np.ones_like(observed[..., :1])], axis=-1)
        seen += observed.swapaxes(-1, -2) @ observed
        wanted += observed.swapaxes(-1, -2) @ target
    # A frequency that the blur or the rounding wiped out has nothing to invert; the ridge, as small as the rounding of
    # float32, keeps the equations solvable there.
    seen[..., range(3), range(3)] += 1e-14 * count
    solution = np.linalg.solve(seen, wanted)

    model = linear_filter((height, width, 3), transform)
    model.set_weights([solution[..., :3, :], solution[..., 3, :] if offset else np.zeros((height, width, 3))])
    return model


def fit_linear_mixture(degraded, clean, levels, transform: str, parts: int = 12, chunk: int = 2000):
    """Fits several linear filters, one for each range of a degradation's strength, and how an image shows which it needs.

    For protocols with an unknown strength, another for each image. The pairs are sorted by it into ``parts`` groups of one
    size. In each group, for every frequency of brightness and of two colour differences, ordinary least squares gives the
    factor and the offset. Which group an image belongs to is judged from the logarithms of its energy in rings of
    frequencies, by linear discriminant analysis with one covariance for all groups (Fisher 1936). All of it is solved in
    closed form; restoring needs no knowledge of the strength: the filters are mixed by the groups' probabilities, which
    would be the minimum mean square error estimate if the groups were normally distributed.

    Args:
        degraded, clean, transform, chunk: as for :func:`fit_linear_filter`, at least 8 pairs a part.
        levels: ``(n,)``, the strength with which each image was degraded: its sigma or its noise
             (:func:`lstm_ae_lib.degradations.sampled_strengths`).
        parts: filters, 2 to 1,024. Default 12.

    Returns and raises as :func:`fit_linear_filter`, with one :class:`~lstm_ae_lib.spectral.SpectralMixture`; ``ValueError`` too for
    levels that are not one finite number an image or do not differ.
    """
    checks.number(parts, "parts", 2, 1024, whole=True)
    degraded, clean = _pairs(degraded, clean, 8 * parts, chunk)
    count, height, width, _ = clean.shape
    levels = checks.array(levels, "levels").astype(np.float64)
    if levels.shape != (count,) or not np.isfinite(levels).all():
        raise ValueError(f"levels must be {count} finite numbers, one an image, got {levels.size} of the shape {levels.shape}")
    if levels.min() == levels.max():
        raise ValueError(f"levels must differ from image to image, all are {levels[0]:g}: one linear filter is enough")
    model = linear_mixture((height, width, 3), transform, parts)
    layer = model.layers[-1]
    rows, columns, colours = (cosine_basis(*axis)[0] for axis in ((height, transform), (width, transform), (3, "dct2")))
    group = np.empty(count, int)
    group[np.argsort(levels, kind="stable")] = np.arange(count) * parts // count

    def spectrum(images):
        values = np.einsum("ih,nhwc->niwc", rows, degradations.as_float(images).astype(np.float64), optimize=True)
        values = np.einsum("jw,niwc->nijc", columns, values, optimize=True)
        return np.einsum("dc,nijc->nijd", colours, values, optimize=True)

    sums = np.zeros((4, parts, height * width * 3))
    features = np.empty((count, 2 * layer.bands))
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        target, observed = spectrum(clean[part]), spectrum(degraded[part])
        features[part] = keras.ops.convert_to_numpy(layer.features(keras.ops.convert_to_tensor(observed, "float32")))
        target, observed = target.reshape(len(target), -1), observed.reshape(len(observed), -1)
        member = (np.arange(parts)[:, None] == group[part]).astype(np.float64)
        for place, values in enumerate((target, observed, observed * observed, target * observed)):
            sums[place] += member @ values
    target, observed, squared, product = sums / np.bincount(group)[:, None]
    factor = (product - target * observed) / (squared - observed**2 + 1e-14)  # a ridge as in fit_linear_filter

    means = np.stack([features[group == part].mean(0) for part in range(parts)])
    within = np.cov((features - means[group]).T, bias=True)
    # A ring without frequencies at this size, and what no image varies in, says nothing.
    within[np.diag_indices_from(within)] *= 1.01
    # About the middle of all groups: what is the same in all of them would be a large number in float32 that cancels.
    middle = means.mean(0)
    kernel = np.linalg.solve(within + 1e-6 * np.eye(len(within)), (means - middle).T)
    bias = -0.5 * ((means + middle) * kernel.T).sum(1)
    shape = (parts, height, width, 3)
    model.set_weights([factor.reshape(shape), (target - factor * observed).reshape(shape), kernel, bias])
    return model


def _pairs(degraded, clean, least, chunk):
    degraded, clean = checks.images_degraded(degraded), checks.images_uint8(clean, "clean")
    checks.same_shape(degraded, clean, "degraded", "clean")
    checks.number(len(clean), "the number of image pairs", least, 2**62, whole=True)
    checks.number(chunk, "chunk", 1, 2**62, whole=True)
    return degraded, clean


class ClassicalRestorer:
    """What all classical restorers share: tuning, and the check that it was done. Each defines ``_restore(images, **values)``.

    Made for a name of a protocol of :mod:`lstm_ae_lib.degradations`, or a ``Protocol``; raises ``ValueError`` for one that this
    restorer is not for. After :meth:`fit`, ``chosen`` holds the values that were chosen, by name.
    """

    grid = {}  # what is tuned: name -> values to try
    suits = staticmethod(lambda protocol: True)

    def __init__(self, protocol):
        self.protocol = degradations.get_protocol(protocol)
        if not self.fits(self.protocol):
            raise ValueError(f"{type(self).__name__} is not for the protocol {self.protocol.name}")
        self.chosen = None

    @classmethod
    def fits(cls, protocol) -> bool:
        """Whether this restorer makes sense for a protocol."""
        return bool(cls.suits(degradations.get_protocol(protocol)))

    def choices(self) -> dict:
        """What is tried for this protocol: name -> values."""
        return dict(self.grid)

    def fit(self, degraded, clean):
        """Chooses, of all combinations of :meth:`choices`, the one with the least squared error on pairs of images (one or more,
        as for :func:`fit_linear_filter`), and returns itself."""
        degraded, clean = _pairs(degraded, clean, 1, 1)
        seen, wanted = degradations.as_float(degraded), clean / np.float32(255)
        names, errors = list(self.choices()), {}
        for values in itertools.product(*self.choices().values()):
            restored = self._restore(seen, **dict(zip(names, values, strict=True)))
            errors[values] = np.mean((np.clip(restored, 0, 1) - wanted) ** 2)
        self.chosen = dict(zip(names, min(errors, key=errors.get), strict=True))
        return self

    def __call__(self, degraded):
        """Restores ``(batch, height, width, 3)``, uint8 or float in units of [0, 1] -> float32, clipped to [0, 1]. Before it was
        fitted it raises ``RuntimeError``."""
        self._must_be_fitted(self.chosen)
        restored = self._restore(degradations.as_float(checks.images_degraded(degraded)), **self.chosen)
        return np.clip(restored, 0, 1).astype(np.float32)

    def _must_be_fitted(self, found):
        if found is None:
            raise RuntimeError(f"{type(self).__name__} must be fitted before it restores: call fit(degraded, clean)")


class UnsharpMask(ClassicalRestorer):
    """Adds what a blur of the image takes away: ``y + amount * (y - blur(y))`` (scikit-image's ``unsharp_mask``)."""

    grid = {"radius": (0.7, 1.0, 1.5, 2.0, 3.0), "amount": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)}
    suits = staticmethod(lambda protocol: protocol.blur != "-")

    def _restore(self, images, radius, amount):
        restored = np.empty_like(images)
        for index, channel in itertools.product(range(len(images)), range(3)):  # its channel_axis leaves values unset
            restored[index, ..., channel] = skimage.filters.unsharp_mask(np.clip(images[index, ..., channel], 0, 1), radius, amount)
        return restored


class _KnownBlur(ClassicalRestorer):
    """One that is given the kernel. The image is mirrored as its border means, so that it is periodic: no edge effects. A known
    bias is added before. Mixed colours are taken apart into the three components that the mixing only scales (a DCT-II)."""

    suits = staticmethod(lambda protocol: protocol.blur != "-")

    def choices(self):
        sigmas = (self.protocol.sigma,)
        if self.protocol.sigma_range:  # unknown: the one that serves all images best
            sigmas = tuple(np.linspace(*self.protocol.sigma_range, 8)[1:].round(3))
        return {"sigma": tuple(float(sigma) for sigma in sigmas), **self.grid}

    def _restore(self, images, sigma, **values):
        height, width = images.shape[1:3]
        images, gains, back = self._colours(images, sigma)
        kernel = self._kernel(sigma, min(height, width))
        psf, restored = np.outer(kernel, kernel), np.empty_like(images)
        for index, image in enumerate(images):
            for channel, gain in enumerate(gains):
                periodic = self._periodic(image[..., channel])
                restored[index, ..., channel] = self._deblurred(periodic, gain * psf, **values)[:height, :width]
        return restored @ back

    def _colours(self, images, sigma):
        """The images' colours as components, by how much the mixing scales each, and the matrix that leads back."""
        if self.protocol.engine != "scipy":
            return images, (1, 1, 1), np.eye(3, dtype=np.float32)
        forward, backward = cosine_basis(3, "dct2")
        gains = np.diag(forward @ _mixing(sigma) @ backward)
        return (images + TRUNCATED) @ forward.T.astype(np.float32), gains, backward.T.astype(np.float32)

    def _kernel(self, sigma, side):
        if self.protocol.passes:
            taps = functools.reduce(np.convolve, (_gaussian(self.protocol.kernel, one) for one in self.protocol.passes))
        elif self.protocol.kernel:
            return _gaussian(self.protocol.kernel, sigma)
        else:
            taps = degradations.kernel_taps(sigma, "reflect" if self.protocol.engine == "scipy" else "reflect_101")
        centre, reach = taps.size // 2, min(taps.size // 2, side - 2)
        taps = taps[centre - reach : centre + reach + 1]
        return taps / taps.sum()

    def _periodic(self, channel):
        inside = slice(None, None, -1) if self.protocol.engine == "scipy" else slice(-2, 0, -1)
        channel = np.concatenate([channel, channel[inside]], axis=0)
        return np.concatenate([channel, channel[:, inside]], axis=1)


class Wiener(_KnownBlur):
    """The Wiener-Hunt filter: the kernel is inverted as far as the noise allows, smoothness decides the rest (Hunt 1973)."""

    grid = {"balance": tuple(10.0**power for power in (-12, -10, -8, -7, -6, -5.5, -5, -4.5, -4, -3.5, -3, -2.5, -2, -1))}

    def _deblurred(self, channel, psf, balance):
        return skimage.restoration.wiener(channel.astype(np.float64), psf, balance, clip=False)


class RichardsonLucy(_KnownBlur):
    """Richardson-Lucy deconvolution: multiplicative updates that keep every pixel positive (Richardson 1972, Lucy 1974).

    Mixed colours are unmixed before, so that values are positive. scikit-image's ``richardson_lucy`` takes what lies round an image
    for black. Here the mirrored image is periodic, and all images are transformed at once, which is some ten times as fast.
    """

    grid = {"iterations": (3, 10, 30, 100, 300)}

    def _colours(self, images, sigma):
        if self.protocol.engine != "scipy":
            return super()._colours(images, sigma)
        # The blur of the colour axis is undone as far as eight bits allow.
        unmixing = np.linalg.solve(_mixing(sigma).T @ _mixing(sigma) + 1e-4 * np.eye(3), _mixing(sigma).T)
        unmixed = np.einsum("ij,nhwj->nhwi", unmixing, images + TRUNCATED).astype(np.float32)
        return unmixed, (1, 1, 1), np.eye(3, dtype=np.float32)

    def _restore(self, images, sigma, iterations):
        height, width = images.shape[1:3]
        images, _, back = self._colours(images, sigma)
        kernel = self._kernel(sigma, min(height, width))
        restored = np.empty_like(images)
        for start in range(0, len(images), 250):  # bounded memory
            part = np.clip(images[start : start + 250], 0, 1)
            seen = np.stack([[self._periodic(channel) for channel in np.moveaxis(image, -1, 0)] for image in part])
            found = _richardson_lucy(seen.astype(np.float32), kernel, iterations)
            restored[start : start + 250] = np.moveaxis(found[..., :height, :width], 1, -1)
        return restored @ back


def _richardson_lucy(seen, kernel, iterations):
    """Periodic images ``(..., height, width)``, blurred along both axes with a kernel of odd length, deblurred."""
    import scipy.fft

    size, lines = seen.shape[-2:], [np.zeros(length) for length in seen.shape[-2:]]
    for line in lines:
        np.add.at(line, (np.arange(len(kernel)) - len(kernel) // 2) % len(line), kernel)
    spectrum = scipy.fft.rfft2(np.outer(*lines)).astype(np.complex64)
    estimate = np.full_like(seen, 0.5)
    for _ in range(iterations):
        again = scipy.fft.irfft2(scipy.fft.rfft2(estimate) * spectrum, s=size)
        ratio = np.divide(seen, again, out=np.zeros_like(seen), where=again > 1e-6)
        estimate *= scipy.fft.irfft2(scipy.fft.rfft2(ratio) * spectrum.conj(), s=size)
    return estimate


class _Denoiser(ClassicalRestorer):
    """One that takes noise away: from the image itself, or from what the Wiener filter makes of a blurred one."""

    def __init__(self, protocol):
        super().__init__(protocol)
        self.deblur = Wiener(self.protocol) if Wiener.fits(self.protocol) else None

    def choices(self):
        if self.deblur is None:
            return dict(self.grid)
        self._must_be_fitted(self.deblur.chosen)
        # What is smoothed afterwards should be inverted further than the Wiener filter alone would.
        balances = tuple(self.deblur.chosen["balance"] * factor for factor in (0.1, 0.3, 1.0))
        return {"balance": balances, **self.grid}

    def fit(self, degraded, clean):
        if self.deblur is not None:
            self.deblur.fit(degraded, clean)
        return super().fit(degraded, clean)

    def _restore(self, images, balance=None, **values):
        if self.deblur is not None:
            images = self.deblur._restore(images, **(self.deblur.chosen | {"balance": balance}))
        return np.stack([self._denoised(image, **values) for image in images])


class TotalVariation(_Denoiser):
    """Total variation: the closest image with few edges (``denoise_tv_chambolle``; Rudin et al. 1992, Chambolle 2004)."""

    grid = {"weight": (0.001, 0.003, 0.006, 0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.15, 0.2)}

    def _denoised(self, image, weight):
        return skimage.restoration.denoise_tv_chambolle(image, weight, channel_axis=-1)


class NonLocalMeans(_Denoiser):
    """Each pixel becomes the mean of those whose surroundings look alike (``denoise_nl_means``; Buades et al. 2005)."""

    grid = {"strength": (0.005, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2), "patch": (3, 5)}
    suits = staticmethod(lambda protocol: protocol.noise > 0)

    def _denoised(self, image, strength, patch):
        noise = self.protocol.noise if self.deblur is None else 0.0
        return skimage.restoration.denoise_nl_means(image, patch, 7, strength, sigma=noise, fast_mode=True, channel_axis=-1)


class Wavelet(_Denoiser):
    """Soft thresholds on wavelet coefficients, chosen for each band (``denoise_wavelet``, BayesShrink; Chang et al. 2000)."""

    # For small images scikit-image takes one level only, if it is not asked for more, which leaves most of the noise.
    grid = {"strength": (0.5, 0.7, 0.85, 1.0, 1.2, 1.5), "levels": (1, 2, 3)}
    suits = staticmethod(lambda protocol: protocol.noise > 0)

    def _denoised(self, image, strength, levels):
        options = {"wavelet": "db2", "wavelet_levels": levels, "channel_axis": -1, "convert2ycbcr": True}
        return skimage.restoration.denoise_wavelet(image, sigma=strength * self.protocol.noise, **options)


class LinearFilter(ClassicalRestorer):
    """The fitted linear filter (:func:`fit_linear_filter`) behind the same interface."""

    model = None

    def fit(self, degraded, clean):
        self.model, self.chosen = fit_linear_filter(degraded, clean, self.protocol.transform), {}
        return self

    def _restore(self, images):
        return self.model.predict(images, batch_size=500, verbose=0)


class LinearMixture(LinearFilter):
    """The fitted mixture of linear filters (:func:`fit_linear_mixture`), for protocols with another strength for each image.

    It knows the strengths of the images it is fitted to, which a protocol draws by their position, and no others.
    """

    suits = staticmethod(lambda protocol: protocol.strength_range)

    def fit(self, degraded, clean, first_index: int = 0):
        """As for :class:`ClassicalRestorer`; ``first_index``: position of the first image in its data set."""
        clean = checks.images_uint8(clean, "clean")
        levels = degradations.sampled_strengths(self.protocol, len(clean), first_index)
        self.model, self.chosen = fit_linear_mixture(degraded, clean, levels, self.protocol.transform), {}
        return self


RESTORERS = {
    "linear": LinearFilter, "linear_mixture": LinearMixture, "unsharp": UnsharpMask, "wiener": Wiener,
    "richardson_lucy": RichardsonLucy, "total_variation": TotalVariation, "non_local_means": NonLocalMeans, "wavelet": Wavelet,
}  # fmt: skip


def make_restorer(name: str, protocol) -> ClassicalRestorer:
    """A classical restorer by its name in :data:`RESTORERS`; ``ValueError`` for an unknown one, or one not for the protocol."""
    return RESTORERS[checks.choice(name, "restorer", RESTORERS)](protocol)


def _gaussian(size, sigma):
    import cv2

    return cv2.getGaussianKernel(size, sigma)[:, 0]


def _mixing(sigma):
    """The known matrix of the blur of the colour axis."""
    return degradations.blur_matrix(3, degradations.kernel_taps(sigma, "reflect"), "reflect")
