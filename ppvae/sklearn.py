"""Factor analysis as a scikit-learn transformer that completes tables, in the place of `IterativeImputer`."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ppvae import exact
from ppvae.errors import Problem
from ppvae.exact.choice import candidates, em_quietly, hidden_errors, spared
from ppvae.exact.linear_gaussian import chunk_rows

HIDDEN = 0.1  # share of the observed entries that is hidden to choose the number of factors


class LatentImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Complete a table by factor analysis: exact conditional means, or draws, of what is missing.

    .. math::
        z_n \sim N(0, I_K), \quad x_n \mid z_n \sim N(W z_n + loc, diag(scale^2)), \quad
        \hat x_{nm} = E[x_{nm} \mid x_{n,o}] = w_m^\top E[z_n \mid x_{n,o}] + loc_m

    `fit` maximises the likelihood of the observed entries by EM, on columns standardised by their observed
    moments. Entries are assumed missing at random. New rows may miss any entries; a row of which nothing is
    observed gets loc. A column with one value only is imputed by it and left out of the factors (W and scale are
    0 there); where fewer than two columns vary, there is no factor and every column is imputed by its mean.
    Columns without any value are refused.

    References: Rubin & Thayer 1982, EM algorithms for ML factor analysis; with missing entries Williams, Nash &
    Nazabal 2018. For `sample`: Rubin 1987, Multiple Imputation for Nonresponse in Surveys.

    Args:
        n_latents: K, below the number of columns (below the number of those that vary, K is lowered to fit).
            None: 1, 2, 3, 5, 8, …, whichever predicts a hidden tenth of the observed entries best.
        max_iter: EM iterations, at most.
        tol: EM stops when an iteration gains less, in nats per row.
        random_state: of the entries to hide, and of `sample` unless it is given its own.

    Attributes:
        W_: loadings (D, K), like ``loc_`` and ``scale_`` in the units of X.
        loc_: mean (D,).
        scale_: standard deviation of the noise (D,).
        n_latents_: K.
        n_iter_: EM iterations; 0 without factors.
        n_features_in_: D.
        feature_names_in_: names of the columns, if X had any.

    Raises:
        Problem: a ValueError: settings out of range, columns without any value.
        ValueError: from scikit-learn: infinite values, a wrong shape, other columns than in `fit`.

    Example:
        >>> from sklearn.linear_model import Ridge
        >>> from sklearn.pipeline import make_pipeline
        >>> X = np.array([[1.0, 2.1], [2.0, np.nan], [3.0, 5.9], [np.nan, 8.2], [5.0, 9.8]])
        >>> LatentImputer().fit_transform(X).shape
        (5, 2)
        >>> make_pipeline(LatentImputer(random_state=0), Ridge()).fit(X, [1, 2, 3, 4, 5]).predict(X).shape
        (5,)
        >>> LatentImputer().fit(X).sample(X, draws=3, random_state=0).shape
        (3, 5, 2)
    """

    def __init__(
        self,
        n_latents: int | None = None,
        *,
        max_iter: int = 3000,
        tol: float = 1e-6,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.n_latents = n_latents
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None) -> LatentImputer:
        """Learn moments, number of factors and loadings from X (N, D), NaN = missing; y is not used."""
        del y
        X = self._table(X, reset=True).astype(np.float64)
        self._refuse(X)
        loc, scale = _moments(X)
        some = scale > 0  # columns that vary
        D, V = X.shape[1], int(some.sum())
        self.W_, self.loc_, self.scale_, self.n_latents_, self.n_iter_ = np.zeros((D, 0)), loc, scale, 0, 0
        if V < 2:
            return self
        z = torch.from_numpy((X[:, some] - loc[some]) / scale[some])  # (N, V)
        if self.n_latents is None:
            self.n_latents_ = _choose(z, int(self.max_iter), check_random_state(self.random_state))
        else:
            self.n_latents_ = min(int(self.n_latents), V - 1)
        found = em_quietly(z, self.n_latents_, iterations=int(self.max_iter), tolerance=float(self.tol))
        self.W_ = np.zeros((D, self.n_latents_))
        self.W_[some] = found.W.numpy() * scale[some, None]
        self.loc_[some] += found.loc.numpy() * scale[some]
        self.scale_[some] *= found.scale.numpy()
        self.n_iter_ = len(found.log_likelihood) - 1
        return self

    def transform(self, X: ArrayLike) -> NDArray:
        """Replace the missing entries of X (N, D) by E[x_m | x_o]; observed ones are kept, bit for bit."""
        check_is_fitted(self)
        X = self._table(X).copy()
        for rows, x, seen, (W, loc, scale) in self._incomplete(X):
            filled = np.tile(self.loc_, (len(rows), 1))  # (n, D)
            filled[:, self.scale_ > 0] = exact.impute_mean(W, loc, scale, x, seen).numpy()
            X[rows] = np.where(np.isnan(X[rows]), filled, X[rows])
        return X

    def sample(self, X: ArrayLike, draws: int = 20, random_state: int | RandomState | None = None) -> NDArray:
        r"""Complete X several times: multiple imputations :math:`x_m \sim p(x_m \mid x_o)`.

        .. math::
            z \sim p(z \mid x_o), \quad x_m \sim N(w_m^\top z + loc_m, scale_m^2)

        The entries of one row are drawn together. W, loc and scale are held at their estimates: what is uncertain
        about them is not in the draws.

        Args:
            X: data (N, D), NaN = missing.
            draws: how many.
            random_state: the same whole number gives the same draws. None: that of the imputer.

        Returns:
            (draws, N, D); observed entries are those of X, bit for bit.

        Raises:
            Problem: draws below 1.
            ValueError: from scikit-learn, as in `transform`.
        """
        check_is_fitted(self)
        if not _whole(draws):
            raise Problem(f"draws={draws!r}", "a number of imputations is a whole number from 1 up", "draws=20")
        X = self._table(X)
        random = check_random_state(self.random_state if random_state is None else random_state)
        completed = np.repeat(X[None], draws, axis=0)  # (draws, N, D)
        for rows, x, seen, (W, loc, scale) in self._incomplete(X):
            q = exact.posterior(W, loc, scale, x, seen)
            mean, root = q.loc.numpy(), q.scale_tril.numpy()  # (n, K), (n, K, K)
            gaps = np.isnan(X[rows])
            for table in completed:
                z = mean + np.einsum("nij,nj->ni", root, random.standard_normal(mean.shape))
                z = z[:, : self.n_latents_]  # without factors, the one that `_incomplete` put in is dropped
                drawn = z @ self.W_.T + self.loc_ + self.scale_ * random.standard_normal(gaps.shape)  # (n, D)
                table[rows] = np.where(gaps, drawn, X[rows])
        return completed

    def _incomplete(self, X: NDArray) -> Iterator[tuple[NDArray, Tensor, Tensor, tuple[Tensor, ...]]]:
        """Walk through the rows with gaps: their numbers, x and mask of the columns that vary, W, loc and scale."""
        some = self.scale_ > 0
        W = self.W_ if self.n_latents_ else np.zeros((len(some), 1))  # a factor without loadings stands for none
        story = tuple(torch.from_numpy(value[some]) for value in (W, self.loc_, self.scale_))
        gaps = np.flatnonzero(np.isnan(X).any(1))
        size = chunk_rows(*W.shape, W.itemsize)
        for start in range(0, len(gaps), size):
            rows = gaps[start : start + size]
            x = torch.from_numpy(X[np.ix_(rows, some)].astype(np.float64))
            yield rows, x, ~x.isnan(), story

    def _table(self, X: ArrayLike, reset: bool = False) -> NDArray:
        return validate_data(self, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")

    def _refuse(self, X: NDArray) -> None:
        D = X.shape[1]
        if self.n_latents is not None and not (_whole(self.n_latents) and self.n_latents < max(D, 2)):
            raise Problem(
                f"n_latents={self.n_latents!r} for {D} column{'s' if D > 1 else ''}",
                "with as many factors as columns no noise is left to identify",
                f"a whole number from 1 to {max(D - 1, 1)}, or None to choose it by entries hidden for the purpose",
            )
        if not _whole(self.max_iter) or not isinstance(self.tol, Real) or not self.tol >= 0:
            raise Problem(
                f"max_iter={self.max_iter!r}, tol={self.tol!r}",
                "EM needs at least one iteration and a gain, in nats per row, to stop at",
                "max_iter=3000, tol=1e-6",
            )
        empty = np.flatnonzero(np.isnan(X).all(0))
        if len(empty):
            names = getattr(self, "feature_names_in_", np.arange(D))[empty[:10]].tolist()
            more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
            raise Problem(
                f"no observed value in column{'s' if len(empty) > 1 else ''} {', '.join(map(repr, names))}{more}",
                "an unused field, or a fold that holds none of its few values",
                "drop such columns, or fill them with a constant, first",
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, (bool, np.bool_)) and int(value) >= 1


def _moments(X: NDArray) -> tuple[NDArray, NDArray]:
    """Give mean and standard deviation (D,) of the observed entries of X (N, D); 0 exactly where nothing varies."""
    seen = ~np.isnan(X)
    count = np.maximum(seen.sum(0), 1)
    low, high = np.where(seen, X, np.inf).min(0), np.where(seen, X, -np.inf).max(0)
    largest = np.where(seen.any(0), np.maximum(np.abs(low), np.abs(high)), 0)
    unit = np.ldexp(1.0, np.frexp(largest)[1] - 1)  # a power of 2: squares cannot overflow, nothing is rounded
    x = np.where(seen, X / unit, 0)
    mean = x.sum(0) / count
    scale = np.sqrt(np.square(np.where(seen, x - mean, 0)).sum(0) / count)
    # The mean of equal numbers may differ from them in the last digit.
    constant = (low >= high) | (scale <= 1e-14 * largest / unit)
    return np.where(low == high, low, mean * unit), np.where(constant, 0.0, scale * unit)


def _choose(z: Tensor, iterations: int, random: RandomState) -> int:
    """Give the number of factors that predicts hidden entries best; z (N, V) standardised, NaN = missing."""
    sizes = candidates(z.shape[1])
    hidden = spared(z, torch.from_numpy(random.random_sample(z.shape) < HIDDEN))
    if len(sizes) == 1 or not hidden.any():
        return sizes[0]
    errors = hidden_errors(z, hidden, sizes, min(200, iterations))
    return min(errors, key=errors.__getitem__)
