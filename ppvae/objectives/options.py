"""What an objective may be asked for, and what to ask for instead."""

from __future__ import annotations

from ppvae.errors import Problem

ELSEWHERE = {
    "pathwise": "every objective",
    "stl": "ppvae.elbo(gradient='stl'), ppvae.iw_elbo(gradient='stl')",
    "dreg": "ppvae.iw_elbo(gradient='dreg'); with one particle it is ppvae.elbo(gradient='stl')",
    "score": "ppvae.elbo(particles=5, gradient='score'); under importance weights ppvae.iw_elbo(gradient='vimco')",
    "vimco": "ppvae.iw_elbo(gradient='vimco'); for the ELBO ppvae.elbo(particles=5, gradient='score')",
}


def refuse_particles(particles: int, at_least: int = 1, why: str = "a number of draws is a whole number") -> None:
    """A number of draws."""
    if not isinstance(particles, int) or isinstance(particles, bool) or particles < at_least:
        raise Problem(f"particles is {particles!r}", f"{why} of at least {at_least}", "particles=5")


def refuse_gradient(gradient: str, known: tuple[str, ...], verb: str) -> None:
    """A gradient estimator that is misspelt, or another objective's."""
    if gradient in known:
        return
    if isinstance(gradient, str) and gradient in ELSEWHERE:
        raise Problem(f"{verb} has no gradient {gradient!r}", "it belongs to another bound", ELSEWHERE[gradient])
    raise Problem(f"gradient is {gradient!r}", "a misspelt name", f"for {verb} one of: {', '.join(known)}")


def refuse_kl(kl: object, verb: str) -> None:
    """A shape of the KL, where there is no KL."""
    if kl is not None:
        raise Problem(
            f"{verb} was given kl={kl!r}",
            "a log-mean-exp of importance weights has no KL term of its own; a weight inside it would make another "
            "number that is no bound",
            f"ppvae.elbo(kl={kl!r})",
        )
