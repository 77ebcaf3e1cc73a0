"""Restoration without a network: filters that are fitted in closed form, and the classical restorers, tuned.

A restorer is made for a protocol, which tells it kernel, border, mixed colours and bias, and fitted to pairs of images, whose error
chooses the rest (strength, iterations, an unknown sigma). The algorithms are scikit-image's. BM3D is missing: the licence of its
reference implementation allows non-commercial use only.
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
    """Fits the linear minimum mean square error (LMMSE) filter of pairs of images, the baseline of the study.

    Ordinary least squares at each frequency of a cosine ``transform`` (``Protocol.transform``): a 3x3 matrix from degraded to clean
    colours and an ``offset``, without which it cannot undo a bias, such as the 1.5 grey levels by which ``reference`` darkens.

    Images are ``(n, height, width, 3)``, n at least 8; uint8, or degraded float in units of [0, 1]; ``chunk`` bounds the memory.
    Returns a ``keras.Model``, not clipped: one :class:`~lstm_ae_lib.spectral.SpectralWiener`. Raises ``ValueError`` for bad images.
    """
    degraded, clean = _pairs(degraded, clean, 8, chunk)
    count, height, width, _ = clean.shape
    checks.choice(offset, "offset", (True, False))
    rows, columns = (cosine_basis(size, transform)[0] for size in (height, width))

    def spectrum(images):
        values = images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)
        values = np.einsum("ih,nhwc->niwc", rows, values, optimize=True)
        return np.einsum("jw,niwc->ijnc", columns, values, optimize=True)

    seen, wanted = (np.zeros((height, width, 4 if offset else 3, outputs)) for outputs in (4 if offset else 3, 3))
    for start in range(0, count, chunk):
        target, observed = (spectrum(images[start : start + chunk]) for images in (clean, degraded))
        if offset:  # a constant 1 beside the colours
            observed = np.concatenate([observed, np.ones_like(observed[..., :1])], axis=-1)
        seen += observed.swapaxes(-1, -2) @ observed
        wanted += observed.swapaxes(-1, -2) @ target
    # The ridge, as small as the rounding of float32, keeps the equations solvable for a frequency that the blur wiped out.
    seen[..., range(3), range(3)] += 1e-14 * count
    solution = np.linalg.solve(seen, wanted)
    model = linear_filter((height, width, 3), transform)
    model.set_weights([solution[..., :3, :], solution[..., 3, :] if offset else np.zeros((height, width, 3))])
    return model


def fit_linear_mixture(degraded, clean, levels, transform: str, parts: int = 12, chunk: int = 2000):
    """Fits a mixture of linear filters, for protocols with another, unknown strength for each image.

    The pairs are sorted by strength, ``levels`` ``(n,)``, into ``parts`` equal groups, 2 to 1,024 of at least 8 pairs. In each,
    ordinary least squares gives a factor and an offset at each frequency of brightness and of two colour differences. The group of
    an image is inferred from the logarithms of its energy in rings of frequencies, by linear discriminant analysis with one
    covariance (Fisher 1936). The filters are mixed by the groups' probabilities: the minimum mean square error estimate if the
    groups were normally distributed. All else is as for :func:`fit_linear_filter`.
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
    group = np.argsort(np.argsort(levels, kind="stable")) * parts // count

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
        sums += [member @ values for values in (target, observed, observed * observed, target * observed)]
    target, observed, squared, product = sums / np.bincount(group)[:, None]
    factor = (product - target * observed) / (squared - observed**2 + 1e-14)  # a ridge as in fit_linear_filter
    means = np.stack([features[group == part].mean(0) for part in range(parts)])
    within = np.cov((features - means[group]).T, bias=True)
    within[np.diag_indices_from(within)] *= 1.01  # a ring without frequencies at this size says nothing
    # About the middle of all groups: what is the same in all of them would be a large number in float32 that cancels.
    middle = means.mean(0)
    kernel = np.linalg.solve(within + 1e-6 * np.eye(len(within)), (means - middle).T)
    filters = (values.reshape(parts, height, width, 3) for values in (factor, target - factor * observed))
    model.set_weights([*filters, kernel, -0.5 * ((means + middle) * kernel.T).sum(1)])
    return model


def _pairs(degraded, clean, least, chunk):
    degraded, clean = checks.images_degraded(degraded), checks.images_uint8(clean, "clean")
    checks.same_shape(degraded, clean, "degraded", "clean")
    checks.number(len(clean), "the number of image pairs", least, 2**62, whole=True)
    checks.number(chunk, "chunk", 1, 2**62, whole=True)
    return degraded, clean


class ClassicalRestorer:
    """Base of the classical restorers, which define ``_restore(images, **values)``; tuned by :meth:`fit`, which sets ``chosen``.

    ``protocol``: as for :func:`lstm_ae_lib.degradations.degrade`; ``ValueError`` for one that this restorer is not for.
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
        """Chooses the combination of :meth:`choices` with the least squared error on pairs of images, and returns itself."""
        degraded, clean = _pairs(degraded, clean, 1, 1)
        seen, wanted = degradations.as_float(degraded), clean / np.float32(255)
        tried = [dict(zip(self.choices(), values, strict=True)) for values in itertools.product(*self.choices().values())]
        self.chosen = min(tried, key=lambda values: np.mean((np.clip(self._restore(seen, **values), 0, 1) - wanted) ** 2))
        return self

    def __call__(self, degraded):
        """Restores images, uint8 or float in units of [0, 1] -> float32, clipped to [0, 1]; ``RuntimeError`` before :meth:`fit`."""
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
    """A restorer that is given the kernel. The image is mirrored as its border says, hence periodic: no edge effects. A known bias
    is added before. Mixed colours are transformed to the three components that the mixing only scales (a DCT-II)."""

    suits = staticmethod(lambda protocol: protocol.blur != "-" and not protocol.blurs)  # of several kinds none is known

    def choices(self):
        sigmas = np.linspace(*self.protocol.sigma_range, 8)[1:].round(3) if self.protocol.sigma_range else (self.protocol.sigma,)
        return {"sigma": tuple(float(sigma) for sigma in sigmas), **self.grid}  # an unknown sigma: the best one for all images

    def _restore(self, images, sigma, **values):
        height, width = images.shape[1:3]
        images, gains, back = self._colours(images, sigma)
        kernel, restored = self._kernel(sigma, min(height, width)), np.empty_like(images)
        for start in range(0, len(images), 250):  # bounded memory
            periodic = self._periodic(np.moveaxis(images[start : start + 250], -1, 1))
            found = self._deblurred(periodic, gains, kernel, **values)[..., :height, :width]
            restored[start : start + 250] = np.moveaxis(found, 1, -1)
        return restored @ back

    def _colours(self, images, sigma):
        """The images' colours as components, by how much the mixing scales each, and the inverse transform."""
        if self.protocol.engine != "scipy":
            return images, (1, 1, 1), np.eye(3, dtype=np.float32)
        mixing = degradations.blur_matrix(3, degradations.kernel_taps(sigma, "reflect"), "reflect")
        return self._unmixed(images + TRUNCATED, mixing)

    def _unmixed(self, images, mixing):
        forward, backward = cosine_basis(3, "dct2")
        gains = np.diag(forward @ mixing @ backward)
        return images @ forward.T.astype(np.float32), gains, backward.T.astype(np.float32)

    def _kernel(self, sigma, side):
        import cv2

        kernels = [cv2.getGaussianKernel(self.protocol.kernel, one)[:, 0] for one in self.protocol.passes]
        if self.protocol.kernel and not kernels:
            return cv2.getGaussianKernel(self.protocol.kernel, sigma)[:, 0]
        border = "reflect" if self.protocol.engine == "scipy" else "reflect_101"
        taps = functools.reduce(np.convolve, kernels) if kernels else degradations.kernel_taps(sigma, border)
        beyond = max(len(taps) // 2 - (side - 2), 0)
        taps = taps[beyond : len(taps) - beyond]
        return taps / taps.sum()

    def _periodic(self, images):
        inside = slice(None, None, -1) if self.protocol.engine == "scipy" else slice(-2, 0, -1)
        images = np.concatenate([images, images[..., inside, :]], axis=-2)
        return np.concatenate([images, images[..., inside]], axis=-1)


class Wiener(_KnownBlur):
    """The Wiener-Hunt filter: an inverse filter, regularized by smoothness (Hunt 1973)."""

    grid = {"balance": tuple(10.0**power for power in (-12, -10, -8, -7, -6, -5.5, -5, -4.5, -4, -3.5, -3, -2.5, -2, -1))}

    def _deblurred(self, images, gains, kernel, balance):
        wiener = functools.partial(skimage.restoration.wiener, balance=balance, clip=False)
        psfs = [gain * np.outer(kernel, kernel) for gain in gains]
        return np.array([list(map(wiener, image, psfs)) for image in images.astype(np.float64)])


class RichardsonLucy(_KnownBlur):
    """Richardson-Lucy deconvolution: multiplicative updates that keep every pixel positive (Richardson 1972, Lucy 1974).

    Unlike scikit-image's, it takes the image as mirrored, not black outside, and transforms all images at once: ten times as fast.
    """

    grid = {"iterations": (3, 10, 30, 100, 300)}

    def _unmixed(self, images, mixing):
        # The blur of the colour axis is undone as far as eight bits allow, so that values are positive.
        unmixing = np.linalg.solve(mixing.T @ mixing + 1e-4 * np.eye(3), mixing.T)
        return np.einsum("ij,nhwj->nhwi", unmixing, images).astype(np.float32), (1, 1, 1), np.eye(3, dtype=np.float32)

    def _deblurred(self, images, gains, kernel, iterations):
        return _richardson_lucy(np.clip(images, 0, 1).astype(np.float32, order="C"), kernel, iterations)


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
    """A restorer that removes noise: from the image itself, or from a blurred one after the Wiener filter."""

    def __init__(self, protocol):
        super().__init__(protocol)
        self.deblur = Wiener(self.protocol) if Wiener.fits(self.protocol) else None

    def choices(self):
        if self.deblur is None:
            return dict(self.grid)
        self._must_be_fitted(self.deblur.chosen)
        # What is smoothed afterwards should be inverted further than by the Wiener filter alone.
        return {"balance": tuple(self.deblur.chosen["balance"] * factor for factor in (0.1, 0.3, 1.0)), **self.grid}

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
    """Non-local means: the mean of pixels with similar surroundings (``denoise_nl_means``; Buades et al. 2005)."""

    grid = {"strength": (0.005, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2), "patch": (3, 5)}
    suits = staticmethod(lambda protocol: protocol.noise > 0)

    def _denoised(self, image, strength, patch):
        noise = self.protocol.noise if self.deblur is None else 0.0
        return skimage.restoration.denoise_nl_means(image, patch, 7, strength, sigma=noise, fast_mode=True, channel_axis=-1)


class Wavelet(_Denoiser):
    """Soft thresholds on wavelet coefficients, chosen for each band (``denoise_wavelet``, BayesShrink; Chang et al. 2000)."""

    # For small images scikit-image's default is one level, which leaves most of the noise.
    grid = {"strength": (0.5, 0.7, 0.85, 1.0, 1.2, 1.5), "levels": (1, 2, 3)}
    suits = staticmethod(lambda protocol: protocol.noise > 0)

    def _denoised(self, image, strength, levels):
        options = {"wavelet": "db2", "wavelet_levels": levels, "channel_axis": -1, "convert2ycbcr": True}
        return skimage.restoration.denoise_wavelet(image, sigma=strength * self.protocol.noise, **options)


class LinearFilter(ClassicalRestorer):
    """The fitted linear filter (:func:`fit_linear_filter`) behind the same interface."""

    def fit(self, degraded, clean):
        self.model, self.chosen = fit_linear_filter(degraded, clean, self.protocol.transform), {}
        return self

    def _restore(self, images):
        return self.model.predict(images, batch_size=500, verbose=0)


class LinearMixture(LinearFilter):
    """The fitted mixture of linear filters (:func:`fit_linear_mixture`), for random protocols."""

    suits = staticmethod(lambda protocol: protocol.strength_range)

    def fit(self, degraded, clean, first_index: int = 0):
        """As for :class:`ClassicalRestorer`; ``first_index``: position of the first image, from which strengths are drawn."""
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
