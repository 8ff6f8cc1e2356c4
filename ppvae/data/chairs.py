"""Chairs, in metres: x to the sitter's left, y up, z to the front; mirror images across x = 0.

Five styles: dining chairs, armchairs, office chairs, stools, benches. What differs within a style is a range of `RANGES`, which
parts there are is a share of `SHARES`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ppvae.data.draws import Draws
from ppvae.data.solids import Surface, at, box, mirrored, surface, tube

STYLES = ("dining", "armchair", "office", "stool", "bench")
STYLE_SHARES = (0.32, 0.2, 0.2, 0.14, 0.14)
PARTS = (
    "seat",
    "back",
    "front leg +x",
    "front leg -x",
    "back leg +x",
    "back leg -x",
    "pedestal",
    "base",
    "arm +x",
    "arm -x",
)
# dining, armchair, office, stool, bench
SHARES = {
    "back": (1.0, 1.0, 1.0, 0.0, 0.65),
    "pedestal": (0.0, 0.06, 0.94, 0.3, 0.0),
    "arm": (0.35, 0.92, 0.65, 0.0, 0.6),
    "post": (0.8, 0.9, 0.85, 1.0, 0.9),
}
RANGES = {
    # the seat
    "width": ((0.40, 0.50), (0.52, 0.72), (0.46, 0.54), (0.30, 0.40), (1.1, 1.6)),
    "depth": ((0.40, 0.48), (0.52, 0.68), (0.44, 0.52), (0.30, 0.40), (0.38, 0.50)),
    "height": ((0.43, 0.48), (0.34, 0.42), (0.44, 0.56), (0.55, 0.80), (0.40, 0.48)),
    "thickness": ((0.025, 0.06), (0.12, 0.20), (0.05, 0.09), (0.03, 0.06), (0.03, 0.08)),
    "narrow": ((0.0, 0.25), (0.0, 0.1), (0.0, 0.15), (0.0, 0.04), (0.0, 0.02)),  # the rear edge, less of the width
    "round": ((0.0, 0.35), (0.0, 0.1), (0.1, 0.5), (0.7, 1.0), (0.0, 0.1)),  # 0: a square, 1: a disc
    "dish": ((0.0, 0.02), (0.0, 0.04), (0.01, 0.03), (0.0, 0.02), (0.0, 0.015)),
    # the back
    "back_height": ((0.40, 0.60), (0.38, 0.62), (0.42, 0.72), (0.3, 0.4), (0.34, 0.48)),
    "back_width": ((0.85, 1.0), (0.92, 1.0), (0.80, 1.0), (0.9, 1.0), (0.96, 1.0)),
    "back_thickness": ((0.02, 0.045), (0.10, 0.18), (0.03, 0.06), (0.02, 0.04), (0.025, 0.05)),
    "recline": ((0.05, 0.25), (0.20, 0.48), (0.0, 0.25), (0.0, 0.2), (0.05, 0.25)),  # radians, at the seat
    "curl": ((-0.4, 0.5), (-0.1, 0.5), (-0.7, 0.5), (0.0, 0.2), (-0.2, 0.3)),  # radians more at the top
    "wrap": ((0.0, 0.07), (0.0, 0.10), (0.02, 0.11), (0.0, 0.05), (0.0, 0.02)),  # the edges, in front of the middle
    "arch": ((0.0, 0.8), (0.0, 0.4), (0.1, 0.9), (0.0, 0.5), (0.0, 0.2)),  # 1: a round top
    # legs, or a pedestal on a base
    "leg_radius": ((0.016, 0.028), (0.022, 0.042), (0.018, 0.026), (0.014, 0.022), (0.022, 0.038)),
    "splay": ((0.0, 0.18), (0.0, 0.2), (0.0, 0.1), (0.05, 0.28), (0.0, 0.12)),  # of the legs' height
    "rake": ((0.0, 0.3), (0.0, 0.25), (0.0, 0.2), (0.0, 0.2), (0.0, 0.12)),  # of the legs at the back
    "sabre": ((-0.1, 0.1), (-0.1, 0.1), (0.0, 0.05), (-0.05, 0.05), (-0.08, 0.08)),  # their bend
    "leg_taper": ((0.5, 1.0), (0.5, 1.0), (0.6, 1.0), (0.6, 1.0), (0.7, 1.0)),
    "pedestal_radius": ((0.02, 0.04), (0.025, 0.04), (0.02, 0.04), (0.02, 0.035), (0.02, 0.04)),
    "base_radius": ((0.22, 0.28), (0.24, 0.32), (0.26, 0.36), (0.17, 0.24), (0.22, 0.28)),
    "star": ((0.5, 0.8), (0.5, 0.8), (0.62, 0.84), (0.0, 0.1), (0.5, 0.8)),  # 0: a disc
    # armrests
    "arm_height": ((0.17, 0.25), (0.14, 0.26), (0.16, 0.26), (0.2, 0.25), (0.19, 0.26)),
    "arm_width": ((0.03, 0.05), (0.08, 0.16), (0.05, 0.08), (0.03, 0.05), (0.04, 0.07)),
    "arm_thickness": ((0.02, 0.035), (0.05, 0.09), (0.025, 0.04), (0.02, 0.03), (0.025, 0.04)),
    "arm_reach": ((0.65, 0.95), (0.85, 1.0), (0.55, 0.8), (0.6, 0.9), (0.75, 0.98)),  # of the seat's depth
    "post_place": ((0.5, 0.75), (0.3, 0.6), (-0.2, 0.3), (0.5, 0.6), (0.6, 0.75)),  # -1: at the back, 1: at the front
    "post_width": ((0.14, 0.25), (2.5, 4.0), (0.16, 0.3), (0.2, 0.3), (0.14, 0.22)),  # more than 2: a panel
}


def make(draws: Draws, grain: float) -> tuple[dict[str, Surface], Tensor, dict[str, Tensor]]:
    """The parts in the order of `PARTS`, which of them are there (N, P), and the factors (N, 1) each."""
    style = draws.style(STYLE_SHARES)
    there = {name: draws.there(style, shares) for name, shares in SHARES.items()}
    f = draws.factors(style, RANGES) | {"post": there["post"].double()[:, None]}
    legs = [surface(tube(grain, 4, 7), partial(_leg, f=f, end=end)) for end in (1, -1)]
    arm = surface(box(grain, 1, 2, 8), lambda p: _arm(p, f))
    made = (
        surface(box(grain, 6, 1, 5), lambda p: _seat(p, f)),
        surface(box(grain, 6, 6, 1), lambda p: _back(p, f)),
        *(side(leg) for leg in legs for side in (_same, mirrored)),
        surface(tube(grain, 5, 3), lambda p: _pedestal(p, f)),
        surface(tube(grain, 20, 1), lambda p: _base(p, f)),
        arm,
        mirrored(arm),
    )
    pedestal, arms, whole = there["pedestal"], there["arm"] & there["back"], torch.ones_like(there["arm"])
    exists = [whole, there["back"], *[~pedestal] * 4, pedestal, pedestal, arms, arms]
    return dict(zip(PARTS, made, strict=True)), torch.stack(exists, 1), {"style": style[:, None].double(), **f}


def _same(part: Surface) -> Surface:
    return part


def _corner(f: dict[str, Tensor], other: Tensor) -> Tensor:
    """How far the seat reaches along one side at a place along the other: a square's 1, or less for a disc."""
    return 1 - f["round"] * (1 - (1 - other.square() / 2).sqrt())


def _half(f: dict[str, Tensor], c: Tensor) -> Tensor:
    """Half of the seat's width at c, -1 at the rear and 1 at the front."""
    return f["width"] / 2 * (1 - f["narrow"] * (1 - c) / 2)


def _seat(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    sunk = f["dish"] * (1 - a.square()) * (1 - c.square())
    y = f["height"] + f["thickness"] / 2 * (b - 1) - sunk - 0.3 * f["thickness"] * ((1 + c) / 2) ** 4
    return at(_half(f, c) * a * _corner(f, c), y, f["depth"] / 2 * c * _corner(f, a))


def _back(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    up = (1 + b) / 2 * (1 - 0.2 * f["arch"] * a.square())
    x = f["back_width"] * _half(f, -torch.ones_like(a)) * a * (1 - 0.6 * f["arch"] * up**4)
    turn = f["recline"] + f["curl"] * up
    off = f["back_thickness"] / 2 * c * (1 - 0.3 * up) + f["wrap"] * a.square()
    return at(x, *_reclined(f, up, off * turn.sin(), off * turn.cos()))


def _reclined(f: dict[str, Tensor], up: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of the back at a share of its height, an arc that leans backwards; y and z are added."""
    chord = f["back_height"] * up * torch.sinc(f["curl"] * up / (2 * torch.pi))
    turn = f["recline"] + f["curl"] * up / 2
    low = f["height"] - 0.8 * f["thickness"]
    return low + chord * turn.cos() + y, f["back_thickness"] / 2 - f["depth"] / 2 - chord * turn.sin() + z


def _leg(p: Tensor, f: dict[str, Tensor], end: int) -> Tensor:
    """The leg on the side of x > 0, at the front (end 1) or at the back (end -1)."""
    a, b, c = p.unbind(-1)
    down = (1 - c) / 2
    edge = torch.full_like(a, float(end))
    top = f["height"] - 0.6 * f["thickness"]
    thick = f["leg_radius"] * (1 - (1 - f["leg_taper"]) * down)
    lean = f["splay"] if end > 0 else f["splay"] + f["rake"]
    bend = 4 * f["sabre"] * down * (1 - down)
    x = 0.88 * _half(f, edge) * _corner(f, edge) - 0.5 * f["leg_radius"] + top * (f["splay"] * down + bend * 0.3)
    z = 0.88 * f["depth"] / 2 * _corner(f, edge) - 0.5 * f["leg_radius"] + top * (lean * down + bend)
    return at(x + thick * a, top * (1 - down), end * z - thick * b)


def _pedestal(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    radius = f["pedestal_radius"] * (1 + 0.35 * c.square())
    top = f["height"] - 0.7 * f["thickness"] - f["dish"]
    return at(radius * a, 0.04 + (top - 0.04) * (1 + c) / 2, -radius * b)


def _base(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    """A disc, or a star with five arms that slope down to their tips."""
    a, b, c = p.unbind(-1)
    far = (a.square() + b.square()).sqrt()
    angle = torch.atan2(a, b)
    radius = f["base_radius"] * (1 - f["star"] * (1 - torch.cos(5 * angle)) / 2)
    y = 0.018 + 0.018 * c + 0.05 * (1 - far)
    return at(radius * a, y, -radius * b)


def _arm(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    """A bar from the back towards the front; from its lower side a post, or a panel, reaches down to the seat."""
    a, b, c = p.unbind(-1)
    up = (f["arm_height"] / f["back_height"]).clamp(max=0.9)
    rear = _reclined(f, up, *torch.zeros(2, dtype=torch.float64))[1]
    front = f["depth"] * (f["arm_reach"] - 0.5)
    z = rear + (front - rear) * (1 + c) / 2
    post = f["post"] * torch.exp(-(((c - f["post_place"]) / f["post_width"]) ** 4))
    drop = f["arm_thickness"] + (f["arm_height"] + 0.6 * f["thickness"] - f["arm_thickness"]) * post
    y = f["height"] + f["arm_height"] + drop * (b - 1) / 2
    along = (2 * z / f["depth"]).clamp(-1, 1)
    x = _half(f, along) * _corner(f, along) + 0.25 * f["arm_width"]
    return at(x + f["arm_width"] / 2 * a, y, z)
