"use strict";
/* Factor analysis with two latents, in closed form:   z ~ N(0, I_2),   x | z ~ N(W z + loc, diag(scale^2)).

A story is {W: D rows of 2, loc: D, scale: D}; a row x has D numbers; a mask has D booleans, true = observed, and what stands
in a hidden entry is never read. A Gaussian q is {mean: 2, covariance: 2 x 2}. Numbers are in nats. No page, no state: a
classic script, so that it also runs from a folder. `ppvae.exact` gives the same answers for any number of latents. */
const linearGaussian = (() => {
  const LEVEL = -2 * Math.log(0.1); // 90 % of a chi-square of 2 degrees of freedom
  const LOG_2PI = Math.log(2 * Math.PI);
  const PRIOR = { mean: [0, 0], covariance: [[1, 0], [0, 1]] };

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
  const times = (A, v) => [dot(A[0], v), dot(A[1], v)];
  const determinant = (A) => A[0][0] * A[1][1] - A[0][1] * A[1][0];
  const inverse = (A) => {
    const size = determinant(A);
    return [[A[1][1] / size, -A[0][1] / size], [-A[1][0] / size, A[0][0] / size]];
  };
  const minus = (a, b) => [a[0] - b[0], a[1] - b[1]];
  const normalLogDensity = (x, loc, scale) => -0.5 * ((x - loc) / scale) ** 2 - Math.log(scale) - 0.5 * LOG_2PI;
  const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;

  /** I + sum_j weights_j / scale_j^2 w_j w_j': what the entries add to the prior's precision. */
  function precision(story, weights) {
    const P = [[1, 0], [0, 1]];
    story.W.forEach((w, j) => {
      const weight = weights[j] / story.scale[j] ** 2;
      for (const a of [0, 1]) for (const b of [0, 1]) P[a][b] += weight * w[a] * w[b];
    });
    return P;
  }

  /** W' Psi^-1 (x - loc) over the observed entries. */
  function shift(story, x, mask) {
    const b = [0, 0];
    story.W.forEach((w, j) => {
      if (!mask[j]) return;
      const pull = (x[j] - story.loc[j]) / story.scale[j] ** 2;
      b[0] += pull * w[0];
      b[1] += pull * w[1];
    });
    return b;
  }

  function gaussian(P, b) {
    const covariance = inverse(P);
    return { mean: times(covariance, b), covariance };
  }

  /** p(z | x_o). */
  const exact = (story, x, mask) => gaussian(precision(story, mask.map(Number)), shift(story, x, mask));

  /** The posterior of the row whose holes are filled by loc, as if it were complete: a filled entry pulls by 0, and weighs. */
  const meanImputation = (story, x, mask) => gaussian(precision(story, mask.map(() => 1)), shift(story, x, mask));

  /** Precision I + s (P - I), with P that of the complete row and s the share of entries that are observed. */
  function scaledCovariance(story, x, mask) {
    const share = mean(mask.map(Number));
    return gaussian(precision(story, mask.map(() => share)), shift(story, x, mask));
  }

  /** The factorised Gaussian nearest in KL(q || p): exact mean, variance of each latent given the other, 1 / P_kk. */
  function meanField(story, x, mask) {
    const P = precision(story, mask.map(Number));
    return { mean: exact(story, x, mask).mean, covariance: [[1 / P[0][0], 0], [0, 1 / P[1][1]]] };
  }

  /** KL(q || p) of two Gaussians. */
  function kl(q, p) {
    const P = inverse(p.covariance);
    const trace = dot(P[0], [q.covariance[0][0], q.covariance[1][0]]) + dot(P[1], [q.covariance[0][1], q.covariance[1][1]]);
    const apart = minus(q.mean, p.mean);
    return 0.5 * (trace - 2 - Math.log(determinant(P) * determinant(q.covariance)) + dot(apart, times(P, apart)));
  }

  /** E_q log p(x_o | z) - KL(q || p(z)): at most log p(x_o), and equal to it where q = p(z | x_o). */
  function elbo(story, x, mask, q) {
    let likelihood = 0;
    story.W.forEach((w, j) => {
      if (!mask[j]) return;
      const spread = dot(w, times(q.covariance, w)) / story.scale[j] ** 2;
      likelihood += normalLogDensity(x[j], dot(w, q.mean) + story.loc[j], story.scale[j]) - 0.5 * spread;
    });
    return likelihood - kl(q, PRIOR);
  }

  /** log p(x_o) by Bayes' rule at one point, the posterior's mean: log p(x_o | z) + log p(z) - log p(z | x_o). */
  function logEvidence(story, x, mask) {
    const p = exact(story, x, mask);
    let value = -0.5 * dot(p.mean, p.mean) + 0.5 * Math.log(determinant(p.covariance));
    story.W.forEach((w, j) => {
      if (mask[j]) value += normalLogDensity(x[j], dot(w, p.mean) + story.loc[j], story.scale[j]);
    });
    return value;
  }

  /** What q says of entry j, hidden or not: mean and standard deviation of x_j = w_j z + loc_j + noise. */
  function predictive(story, j, q) {
    const w = story.W[j];
    return { mean: dot(w, q.mean) + story.loc[j], sd: Math.sqrt(dot(w, times(q.covariance, w)) + story.scale[j] ** 2) };
  }

  /** L, lower triangular, L L' = A: the ellipse of 90 % is mean + sqrt(LEVEL) L u for u on the unit circle. */
  function cholesky(A) {
    const first = Math.sqrt(A[0][0]);
    return [[first, 0], [A[1][0] / first, Math.sqrt(determinant(A)) / first]];
  }

  /** Does the ellipse of 90 % hold z? */
  function holds(q, z) {
    const apart = minus(z, q.mean);
    return dot(apart, times(inverse(q.covariance), apart)) <= LEVEL;
  }

  function normal(random) {
    return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  }

  /** One row of the story, {z, x}; `random` gives uniform numbers from 0 up to 1, as Math.random does. */
  function draw(story, random) {
    const z = [normal(random), normal(random)];
    return { z, x: story.W.map((w, j) => dot(w, z) + story.loc[j] + story.scale[j] * normal(random)) };
  }

  /** The share of the story's rows whose z the ellipse of 90 % holds, given that these entries are hidden.

  The mean of each approximation is B (x - loc), so its error z - mean is Gaussian too, of covariance E E' + B Psi B' with
  E = I - B W. With L its factor and u a direction, the squared radius at which L r u leaves the ellipse is
  LEVEL / u' L' covariance^-1 L u, and r^2 is chi-square of 2 degrees of freedom: average over the directions. */
  function coverage(story, mask, approximation) {
    const { loc, W, scale } = story;
    const E = [[1, 0], [0, 1]];
    const noise = [[0, 0], [0, 0]];
    W.forEach((w, j) => {
      const column = approximation(story, loc.map((value, i) => value + (i === j ? 1 : 0)), mask).mean; // B e_j
      for (const a of [0, 1]) for (const b of [0, 1]) {
        E[a][b] -= column[a] * w[b];
        noise[a][b] += scale[j] ** 2 * column[a] * column[b];
      }
    });
    const L = cholesky([0, 1].map((a) => [0, 1].map((b) => dot(E[a], E[b]) + noise[a][b])));
    const P = inverse(approximation(story, loc, mask).covariance);
    const directions = 720; // the integrand is smooth and periodic: far more than double precision asks for
    return mean(Array.from({ length: directions }, (_, i) => {
      const angle = (2 * Math.PI * i) / directions;
      const out = times(L, [Math.cos(angle), Math.sin(angle)]);
      return 1 - Math.exp(-LEVEL / 2 / dot(out, times(P, out)));
    }));
  }

  const approximations = {
    "exact": exact,
    "mean imputation": meanImputation,
    "scaled covariance": scaledCovariance,
    "mean field": meanField,
  };
  return { LEVEL, PRIOR, approximations, kl, elbo, logEvidence, predictive, cholesky, holds, draw, coverage };
})();
