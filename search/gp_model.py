"""Gaussian processes that a sweep learns from: of levels (the sampler `gp`) and of intervals (the
scheduler `pb2`).

Both have zero mean, and parameters that are logarithms, found by maximum posterior under normal
priors (`Posterior`). They differ in their kernels, and in what is asked of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Factor = NDArray[np.floating]
"""Of Cholesky, [n, n], lower triangular."""

Slopes = Callable[[Array], Array]
"""From a matrix P [n, n] to the sums [parameters] of P times the covariance's derivatives."""

_MEAN_VARIANCE = 100.0
_JITTER = 1e-8
_ITERATIONS = 25

# Means and standard deviations of normal priors on logarithms: (length, where log(keys) / 2 is
# added), c, s^2, and the noise's variance at z = 0 and z = 1.
_LENGTH = (math.log(0.5), 0.7)
_OTHERS = ((0.0, 1.0), (0.0, 1.0), (-3.0, 2.0), (-3.0, 2.0))
_BOUNDS = (-9.0, 7.0)

# The same of an interval's: length, tau, the noise's variance; all with a deviation of 1.
_INTERVAL_LENGTH, _TAU, _NOISE = 0.0, -1.0, -1.5
_INTERVAL_REACH = 4.0


class Posterior(ABC):
    """Minus the logarithm of the posterior of a process's parameters, and its gradient.

    Attributes:
        values: [n] what is learnt from.
        prior_mean, prior_deviation: [parameters].
        bounds: of every parameter, the lowest and the highest value.
        iterations: of the fit, at most.
    """

    iterations = 15_000

    def __init__(
        self,
        values: Array,
        prior_mean: Array,
        prior_deviation: Array,
        bounds: list[tuple[float, float]],
    ) -> None:
        self.values, self.bounds = values, bounds
        self.prior_mean, self.prior_deviation = prior_mean, prior_deviation

    @abstractmethod
    def expanded(self, parameters: Array) -> tuple[Array, Slopes]:
        """[n, n] covariance of the values, noise included, and how it changes."""

    def covariance(self, parameters: Array) -> Array:
        """[n, n] of the values."""
        return self.expanded(parameters)[0]

    def solved(self, factor: Factor) -> tuple[Array, Array]:
        """[n, n] the inverse of the covariance with this Cholesky factor, and [n] its product with
        the values.
        """
        return solve(factor, np.eye(len(factor))), solve(factor, self.values)

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        covariance, slopes = self.expanded(parameters)
        factor = np.linalg.cholesky(covariance)
        inverse, weights = self.solved(factor)
        off = (parameters - self.prior_mean) / self.prior_deviation
        value = (
            0.5 * float(self.values @ weights)
            + float(np.log(np.diag(factor)).sum())
            + 0.5 * float(off @ off)
        )
        pull = 0.5 * (inverse - np.outer(weights, weights))
        return value, slopes(pull) + off / self.prior_deviation

    def fitted(self) -> Array:
        """The parameters at the maximum, searched from the priors' means."""
        from scipy.optimize import minimize

        optimum = minimize(
            self,
            self.prior_mean,
            jac=True,
            method="L-BFGS-B",
            bounds=self.bounds,
            options={"maxiter": self.iterations},
        )
        parameters: Array = optimum.x
        return parameters


@dataclass(frozen=True)
class LevelData:
    """Values of configurations at levels (a rung, or the full length).

    Attributes:
        features: [n, keys].
        is_choice: [keys] whether a feature is the index of an option.
        levels: [n] the index of the level.
        depth: [n] the level's z, from 0 at the lowest to 1 at the full length.
        values: [n] the smaller the better, about 0 and of a spread about 1.
    """

    features: Array
    is_choice: NDArray[np.bool_]
    levels: NDArray[np.int64]
    depth: Array
    values: Array


class LevelModel:
    """A process over settings and level: what is cheap to learn at low levels, in so far as it
    holds at full length, which the fit finds out.

    The value of a configuration x at level l is m_l + g(x, z_l) + noise. Every level has a mean of
    its own, m_l, with a wide prior. The covariance of g is

        s^2 M(r) exp(-|z - z'| / c),   M(r) = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r),
        r^2 = sum_k d_k(x, x')^2 / l_k^2

    (Matern 5/2 with a length l_k for every key), a product of settings and task as in Swersky et
    al. 2013. The logarithm of the noise's variance is linear in z. The lengths' prior grows with
    the square root of the number of keys, as distances do (Hvarfner et al. 2024), and is shorter
    and narrower than theirs: with long lengths a key whose effect hides in the noise of the first
    few trials was taken as without effect, and never tried again.

    Attributes:
        parameters: logarithms: of every key's length, of c, of s^2, of the noise's variance at
            the lowest level and at the full length.
    """

    def __init__(self, data: LevelData) -> None:
        self._data = data
        posterior = LevelPosterior(data)
        self.parameters = posterior.fitted()
        self._points, self._depth = data.features, data.depth
        self._covariance = posterior.covariance(self.parameters)
        self._factor: Factor = np.linalg.cholesky(self._covariance)
        self._weights = solve(self._factor, data.values)

    def expect(self, features: Array) -> None:
        """Takes configurations [n, keys] as measured at full length, with just the value that is
        expected: their neighbourhood is known better, and nowhere else or worse.
        """
        if not len(features):
            return
        depth = np.ones(len(features))
        cross = self._between(features, depth)
        among = self._kernel(features, depth, features, depth)
        among[np.diag_indices(len(among))] += np.exp(self.parameters[-1]) + _JITTER
        self._covariance = np.block([[self._covariance, cross.T], [cross, among]])
        self._factor = np.linalg.cholesky(self._covariance)
        self._points = np.concatenate([self._points, features])
        self._depth = np.concatenate([self._depth, depth])
        self._weights = np.concatenate([self._weights, np.zeros(len(features))])

    def predict(self, features: Array) -> tuple[Array, Array]:
        """[n] mean and [n] standard deviation of g at full length."""
        from scipy.linalg import solve_triangular

        cross = self._between(features, np.ones(len(features)))
        reduced = solve_triangular(self._factor, cross.T, lower=True)
        variance = np.exp(self.parameters[-3]) - np.einsum("ij,ij->j", reduced, reduced)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-12))

    def _between(self, features: Array, depth: Array) -> Array:
        return self._kernel(features, depth, self._points, self._depth)

    def _kernel(self, x: Array, z: Array, other_x: Array, other_z: Array) -> Array:
        """[n, m] covariance of g."""
        keys = self._data.features.shape[1]
        root = np.zeros((len(x), len(other_x)))
        for key in range(keys):
            gap = x[:, None, key] - other_x[None, :, key]
            if self._data.is_choice[key]:
                gap = (gap != 0.0).astype(float)
            root += (gap * math.exp(-self.parameters[key])) ** 2
        root = np.sqrt(5.0 * root)
        gaps = np.abs(z[:, None] - other_z[None, :])
        c, amplitude = np.exp(self.parameters[keys : keys + 2])
        return amplitude * (1.0 + root + root**2 / 3.0) * np.exp(-root - gaps / c)


class LevelPosterior(Posterior):
    """Of the parameters of a `LevelModel`."""

    iterations = _ITERATIONS

    def __init__(self, data: LevelData) -> None:
        gaps = data.features.T[:, :, None] - data.features.T[:, None, :]
        choices = data.is_choice[:, None, None]
        self._squares = np.where(choices, gaps != 0.0, gaps**2)
        self._gaps = np.abs(data.depth[:, None] - data.depth[None, :])
        self._means = (data.levels[:, None] == data.levels[None, :]) * _MEAN_VARIANCE
        self._depth, self._keys = data.depth, data.features.shape[1]
        length = (_LENGTH[0] + math.log(self._keys) / 2, _LENGTH[1])
        priors = np.array([length] * self._keys + list(_OTHERS))
        super().__init__(data.values, priors[:, 0], priors[:, 1], [_BOUNDS] * len(priors))

    def expanded(self, parameters: Array) -> tuple[Array, Slopes]:
        inverse = np.exp(-2.0 * parameters[: self._keys])
        root = np.sqrt(5.0 * np.einsum("k,kij->ij", inverse, self._squares))
        c, amplitude = np.exp(parameters[self._keys : self._keys + 2])
        decay = amplitude * np.exp(-root - self._gaps / c)
        g = (1.0 + root + root**2 / 3.0) * decay
        noise = np.exp((1.0 - self._depth) * parameters[-2] + self._depth * parameters[-1])
        covariance = g + self._means
        covariance[np.diag_indices(len(covariance))] += noise + _JITTER

        def slopes(pull: Array) -> Array:
            # d g / d r^2 is -(5/6) (1 + root) decay, and r^2 holds every square over its length.
            slope = 5.0 / 3.0 * (1.0 + root) * decay
            lengths = np.einsum("ij,kij->k", pull * slope, self._squares)
            diagonal = np.diag(pull) * noise
            others = [
                (pull * g * self._gaps).sum() / math.exp(parameters[self._keys]),
                (pull * g).sum(),
                (diagonal * (1.0 - self._depth)).sum(),
                (diagonal * self._depth).sum(),
            ]
            return np.concatenate([lengths * inverse, others])

        return covariance, slopes

    def solved(self, factor: Factor) -> tuple[Array, Array]:
        """By `dpotri`, in a third of the time that solving takes; it rounds otherwise."""
        from scipy.linalg.lapack import dpotri

        lower: Array = np.tril(dpotri(factor, lower=1)[0])
        inverse = lower + np.tril(lower, -1).T
        return inverse, inverse @ self.values


@dataclass(frozen=True)
class IntervalData:
    """What the intervals of a population have gained.

    Attributes:
        x: [n, columns] settings of an interval, in the unit cube.
        times: [n] the interval's number.
        values: [n] the greater the better, of mean 0 and deviation 1 within an interval.
    """

    x: Array
    times: Array
    values: Array


class IntervalModel:
    """A process over settings and time that forgets, of variance 1: its covariance is

        exp(-sum_k (x_k - x'_k)^2 / (2 l_k^2)) exp(-tau |i - j| / 2)

    squared-exponential with a length l_k for every column of x, i and j the numbers of intervals
    (Parker-Holder et al. 2020 write (1 - epsilon) to the power |i - j| / 2).

    Attributes:
        parameters: logarithms: of every column's length, of tau, of the noise's variance.
    """

    def __init__(self, data: IntervalData) -> None:
        self._data = data
        posterior = IntervalPosterior(data)
        self.parameters = posterior.fitted()
        factor = np.linalg.cholesky(posterior.covariance(self.parameters))
        self._weights = solve(factor, data.values)

    def predict(self, x: Array, interval: int, pending: Array) -> tuple[Array, Array]:
        """[c] mean and [c] standard deviation at x [c, columns] in an interval.

        Args:
            pending: [p, columns] settings of the same interval whose values are to come: they
                lower the deviation only (Desautels et al. 2014, GP-BUCB).
        """
        data, parameters = self._data, self.parameters
        here = np.full(len(x), float(interval))
        mean = _forgetting(parameters, x, here, data.x, data.times) @ self._weights
        points = np.concatenate([data.x, pending])
        times = np.concatenate([data.times, np.full(len(pending), float(interval))])
        covariance = _forgetting(parameters, points, times, points, times)
        covariance[np.diag_indices(len(times))] += np.exp(parameters[-1])
        cross = _forgetting(parameters, x, here, points, times)
        solved = solve(np.linalg.cholesky(covariance), cross.T)
        explained = np.einsum("cn,nc->c", cross, solved)
        return mean, np.sqrt(np.maximum(1.0 - explained, 0.0))


class IntervalPosterior(Posterior):
    """Of the parameters of an `IntervalModel`; its priors hold where the rows are few."""

    def __init__(self, data: IntervalData) -> None:
        self._data = data
        mean = np.array([_INTERVAL_LENGTH] * data.x.shape[1] + [_TAU, _NOISE])
        bounds = [(middle - _INTERVAL_REACH, middle + _INTERVAL_REACH) for middle in mean]
        super().__init__(data.values, mean, np.ones(len(mean)), bounds)

    def expanded(self, parameters: Array) -> tuple[Array, Slopes]:
        x, times = self._data.x, self._data.times
        signal, noise = _forgetting(parameters, x, times, x, times), np.exp(parameters[-1])
        covariance = signal + noise * np.eye(len(times))

        def slopes(pull: Array) -> Array:
            weighted = pull * signal
            gaps = (x.T[:, :, None] - x.T[:, None, :]) / np.exp(parameters[:-2, None, None])
            lengths = [(weighted * gap**2).sum() for gap in gaps]
            ages = np.abs(times[:, None] - times[None])
            forgotten = (weighted * (-0.5 * np.exp(parameters[-2]) * ages)).sum()
            return np.array([*lengths, forgotten, noise * np.trace(pull)])

        return covariance, slopes


def _forgetting(parameters: Array, x: Array, i: Array, z: Array, j: Array) -> Array:
    """[n, m] covariance of x [n, columns] in intervals i [n] with z [m, columns] in j [m]."""
    lengths, tau = np.exp(parameters[:-2]), np.exp(parameters[-2])
    scaled, other = x / lengths, z / lengths
    squares = (scaled**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2.0 * scaled @ other.T
    gaps = np.abs(i[:, None] - j[None])
    covariance: Array = np.exp(-0.5 * np.maximum(squares, 0.0) - 0.5 * tau * gaps)
    return covariance


def solve(factor: Factor, right: Array) -> Array:
    """The solution of (factor factor^T) x = right."""
    from scipy.linalg import cho_solve

    solution: Array = cho_solve((factor, True), right)
    return solution
