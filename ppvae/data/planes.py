"""Aeroplanes: x to the pilot's left, y up, z to the nose; mirror images across x = 0. Lengths are of the order of 1.

Five styles: airliners, business jets, fighters, light propeller planes, gliders. What differs within a style is a range of
`RANGES`, which parts there are is a share of `SHARES`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.data.draws import Draws
from ppvae.data.solids import Surface, at, box, mirrored, surface, tube

STYLES = ("airliner", "business jet", "fighter", "light", "glider")
STYLE_SHARES = (0.3, 0.16, 0.24, 0.18, 0.12)
PARTS = ("fuselage", "wing +x", "wing -x", "tail +x", "tail -x", "fin", "engine +x", "engine -x")
# airliner, business jet, fighter, light, glider
SHARES = {
    "tail": (1.0, 1.0, 0.6, 1.0, 0.92),
    "fin": (1.0, 1.0, 0.88, 1.0, 1.0),
    "engine": (1.0, 1.0, 0.0, 0.3, 0.0),
    "tee": (0.1, 0.85, 0.0, 0.1, 0.6),  # the tail on top of the fin
}
RANGES = {
    # the fuselage
    "length": ((1.4, 1.8), (1.3, 1.6), (1.4, 1.7), (1.1, 1.35), (1.0, 1.25)),
    "radius": ((0.08, 0.11), (0.075, 0.095), (0.06, 0.09), (0.07, 0.1), (0.045, 0.065)),
    "nose": ((0.1, 0.35), (0.3, 0.6), (0.7, 1.0), (0.2, 0.5), (0.2, 0.5)),  # 1: a needle
    "tail_cone": ((0.7, 0.85), (0.65, 0.8), (0.1, 0.5), (0.6, 0.8), (0.75, 0.88)),  # 1: a point
    "waist": ((-0.8, -0.4), (-0.8, -0.4), (-0.9, -0.6), (-0.5, -0.1), (0.0, 0.25)),  # where the cone begins, of -1 … 1
    "upsweep": ((0.3, 0.7), (0.2, 0.6), (-0.1, 0.2), (0.0, 0.4), (0.1, 0.5)),  # of the cone's end, in radii
    "canopy": ((0.0, 0.08), (0.0, 0.15), (0.3, 0.7), (0.25, 0.6), (0.2, 0.5)),
    # wings
    "span": ((0.75, 0.95), (0.6, 0.75), (0.38, 0.55), (0.62, 0.8), (1.0, 1.3)),  # of one
    "chord": ((0.28, 0.36), (0.26, 0.34), (0.45, 0.8), (0.2, 0.27), (0.11, 0.15)),  # at the root
    "taper": ((0.62, 0.78), (0.5, 0.7), (0.65, 0.94), (0.0, 0.4), (0.3, 0.6)),
    "ellipse": ((0.0, 0.0), (0.0, 0.1), (0.0, 0.1), (0.0, 0.8), (0.1, 0.6)),  # 1: an elliptic planform
    "sweep": ((0.4, 0.66), (0.25, 0.5), (0.55, 0.95), (-0.02, 0.1), (-0.05, 0.06)),  # radians
    "dihedral": ((0.06, 0.14), (0.04, 0.12), (-0.08, 0.04), (0.04, 0.13), (0.02, 0.08)),
    "winglet": ((0.0, 0.12), (0.02, 0.12), (0.0, 0.0), (0.0, 0.01), (0.0, 0.06)),
    "flex": ((0.0, 0.08), (0.0, 0.03), (0.0, 0.0), (0.0, 0.02), (0.03, 0.12)),
    "wing_height": ((-0.7, -0.4), (-0.7, -0.4), (-0.2, 0.5), (-0.8, 0.85), (0.0, 0.7)),  # in radii
    "wing_place": ((-0.02, 0.1), (-0.14, 0.0), (-0.22, -0.06), (0.12, 0.26), (0.2, 0.34)),  # of the length
    # tail planes and fin
    "tail_span": ((0.26, 0.36), (0.24, 0.32), (0.2, 0.28), (0.22, 0.3), (0.18, 0.26)),
    "tail_chord": ((0.16, 0.22), (0.15, 0.2), (0.18, 0.28), (0.13, 0.18), (0.08, 0.11)),
    "tail_sweep": ((0.45, 0.65), (0.35, 0.55), (0.6, 0.9), (0.0, 0.25), (0.0, 0.15)),
    "fin_height": ((0.24, 0.36), (0.2, 0.3), (0.18, 0.3), (0.16, 0.24), (0.15, 0.22)),
    "fin_chord": ((0.24, 0.32), (0.22, 0.3), (0.24, 0.36), (0.16, 0.22), (0.12, 0.16)),
    "fin_sweep": ((0.5, 0.75), (0.5, 0.8), (0.55, 0.9), (0.1, 0.6), (0.05, 0.35)),
    # engines
    "engine_radius": ((0.045, 0.07), (0.035, 0.05), (0.03, 0.04), (0.03, 0.042), (0.03, 0.04)),
    "engine_length": ((0.18, 0.27), (0.2, 0.27), (0.2, 0.25), (0.17, 0.24), (0.2, 0.25)),
    "engine_place": ((0.3, 0.4), (0.0, 0.0), (0.2, 0.3), (0.25, 0.36), (0.2, 0.3)),  # of a wing's span; 0: at the body
}


def make(draws: Draws, grain: float) -> tuple[dict[str, Surface], Tensor, dict[str, Tensor]]:
    """The parts in the order of `PARTS`, which of them are there (N, P), and the factors (N, 1) each."""
    style = draws.style(STYLE_SHARES)
    there = {name: draws.there(style, shares) for name, shares in SHARES.items()}
    f = draws.factors(style, RANGES)
    f["tee"] = (there["tee"] & there["fin"]).double()[:, None]
    wing = surface(box(grain, 9, 1, 3), lambda p: _wing(p, f))
    tail = surface(box(grain, 4, 1, 3), lambda p: _tail(p, f))
    engine = surface(tube(grain, 6, 3, 4.0), lambda p: _engine(p, f))
    made = (
        surface(tube(grain, 8, 15, 4.0), lambda p: _fuselage(p, f)),
        *(wing, mirrored(wing)),
        *(tail, mirrored(tail)),
        surface(box(grain, 1, 4, 3), lambda p: _fin(p, f)),
        *(engine, mirrored(engine)),
    )
    tails, engines, whole = there["tail"], there["engine"], torch.ones_like(there["tail"])
    exists = [whole, whole, whole, tails, tails, there["fin"], engines, engines]
    return dict(zip(PARTS, made, strict=True)), torch.stack(exists, 1), {"style": style[:, None].double(), **f}


def _body(f: dict[str, Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """Radius of the fuselage, and height of its axis, at t: -1 at the tail, 1 at the nose."""
    behind = ((f["waist"] - t) / (f["waist"] + 1)).clamp(min=0)
    ahead = ((t - 0.35) / 0.65).clamp(min=0)
    slim = (1 - f["tail_cone"] * behind**1.5) * (1 - 0.75 * f["nose"] * ahead**1.6)
    return f["radius"] * slim, f["radius"] * (f["upsweep"] * behind**2 - 0.25 * ahead**2)


def _fuselage(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    radius, axis = _body(f, c)
    dome = 1 + f["canopy"] * torch.exp(-(((c - 0.42) / 0.2) ** 2)) * (0.5 + 0.5 * b).clamp(0, 1) ** 2
    return at(radius * a, axis + radius * b * dome, f["length"] / 2 * c)


def _wing(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    """The wing on the side of x > 0: a is along the span, c along the chord."""
    a, b, c = p.unbind(-1)
    s = (1 + a) / 2
    chord = f["chord"] * (1 - f["taper"] * s) * (1 - f["ellipse"] * (1 - (1 - 0.9 * s.square()).sqrt()))
    root = 0.75 * f["radius"] * (1 - 0.6 * f["wing_height"].square()).sqrt()
    back = f["span"] * s * f["sweep"].tan()
    thick = 0.055 * chord * (1.15 - 0.55 * c.square() + 0.25 * c)
    lift = f["span"] * (s * f["dihedral"] + f["flex"] * s**3) + f["winglet"] * s**12
    y = f["wing_height"] * f["radius"] + lift + thick * b
    z = (
        f["wing_place"] * f["length"]
        + chord / 2 * c
        + f["chord"] * f["taper"] * s / 2 * f["sweep"].tan().clamp(max=1)
        - back
    )
    return at(root + f["span"] * s, y, z)


def _rear(f: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Radius and height of the fuselage where the fin stands, and the place along it."""
    t = torch.full_like(f["length"], -0.82)
    return *_body(f, t), f["length"] / 2 * t


def _tail(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    s = (1 + a) / 2
    radius, axis, place = _rear(f)
    chord = f["tail_chord"] * (1 - 0.5 * s)
    foot = f["tee"] * f["fin_height"]
    x = 0.4 * radius * (1 - f["tee"]) + 0.004 * f["tee"] + f["tail_span"] * s
    y = axis + 0.25 * radius + foot + 0.04 * f["tail_span"] * s + 0.05 * chord * (1.2 - c.square() / 2) * b
    z = place - foot * f["fin_sweep"].tan() + chord / 2 * c - f["tail_span"] * s * f["tail_sweep"].tan()
    return at(x, y, z)


def _fin(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    s = (1 + b) / 2
    radius, axis, place = _rear(f)
    chord = f["fin_chord"] * (1 - 0.5 * s)
    height = f["fin_height"] + 0.25 * radius
    y = axis + 0.3 * radius + height * s
    z = place - height * s * f["fin_sweep"].tan() + chord / 2 * c
    return at(0.05 * chord * (1.2 - c.square() / 2) * a, y, z)


def _engine(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    """Under the wing, or beside the fuselage's rear where `engine_place` is 0."""
    a, b, c = p.unbind(-1)
    s, size = f["engine_place"], f["engine_radius"]
    beside = (s == 0).double()
    root = 0.75 * f["radius"] * (1 - 0.6 * f["wing_height"].square()).sqrt()
    under = f["wing_height"] * f["radius"] + f["span"] * s * f["dihedral"] - 0.75 * size
    ahead = (
        f["wing_place"] * f["length"] + 0.5 * f["chord"] * (1 - f["taper"] * s) - f["span"] * s * f["sweep"].tan() * 0.8
    )
    x = (1 - beside) * (root + f["span"] * s) + beside * (f["radius"] + 0.8 * size)
    y = (1 - beside) * under + beside * 0.45 * f["radius"]
    z = (1 - beside) * ahead - beside * 0.26 * f["length"]
    slim = size * (1 - 0.25 * ((1 - c) / 2) ** 2)
    return at(x + slim * a, y + slim * b, z + f["engine_length"] / 2 * c)
