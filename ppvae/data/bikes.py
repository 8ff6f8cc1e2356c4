"""Motorbikes, in metres: x to the rider's left, y up, z to the front; mirror images across x = 0.

Four styles: sport, cruiser, tourer, off-road. What differs within a style is a range of `RANGES`, which parts there are is a
share of `SHARES`. Wheels stand on the ground, the fork leads from the front axle to the head, whatever its rake; the frame from
the rear axle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.data.draws import Draws
from ppvae.data.solids import THIN, Surface, at, box, joined, mirrored, ring, surface, tube

STYLES = ("sport", "cruiser", "tourer", "off-road")
STYLE_SHARES = (0.27, 0.27, 0.22, 0.24)
PARTS = (
    "front wheel",
    "back wheel",
    "frame",
    "fork",
    "handlebar",
    "saddle",
    "tank",
    "engine",
    "front mudguard",
    "back mudguard",
    "case +x",
    "case -x",
    "windscreen",
)
# sport, cruiser, tourer, off-road
SHARES = {
    "engine": (0.92, 1.0, 1.0, 0.85),  # those without run on a battery in the frame
    "front mudguard": (0.85, 0.8, 0.95, 0.9),
    "back mudguard": (0.35, 0.85, 0.9, 0.7),
    "case": (0.0, 0.35, 0.8, 0.05),
    "windscreen": (0.7, 0.2, 0.85, 0.0),
}
RANGES = {
    "wheelbase": ((1.34, 1.44), (1.58, 1.78), (1.48, 1.66), (1.38, 1.50)),
    # wheels
    "front_radius": ((0.29, 0.31), (0.29, 0.36), (0.30, 0.33), (0.34, 0.38)),
    "front_tyre": ((0.055, 0.065), (0.045, 0.075), (0.058, 0.07), (0.038, 0.048)),
    "back_radius": ((0.30, 0.32), (0.30, 0.34), (0.30, 0.33), (0.32, 0.35)),
    "back_tyre": ((0.075, 0.095), (0.075, 0.115), (0.075, 0.095), (0.05, 0.062)),
    # fork and handlebar
    "rake": ((0.38, 0.45), (0.50, 0.80), (0.44, 0.54), (0.44, 0.50)),  # radians from upright
    "head": ((0.84, 0.92), (0.82, 0.95), (0.88, 0.98), (1.0, 1.12)),  # its height
    "bar_half": ((0.30, 0.36), (0.36, 0.46), (0.38, 0.45), (0.38, 0.44)),
    "bar_rise": ((-0.10, 0.02), (0.02, 0.42), (0.08, 0.2), (0.06, 0.14)),
    "bar_pull": ((0.04, 0.14), (0.14, 0.36), (0.18, 0.32), (0.06, 0.14)),
    # tank, saddle, engine
    "seat": ((0.76, 0.84), (0.62, 0.72), (0.72, 0.80), (0.84, 0.95)),  # its height
    "seat_step": ((0.06, 0.16), (0.02, 0.16), (0.04, 0.12), (-0.02, 0.04)),
    "seat_width": ((0.10, 0.14), (0.14, 0.20), (0.16, 0.20), (0.08, 0.11)),
    "seat_thickness": ((0.03, 0.05), (0.045, 0.075), (0.05, 0.08), (0.035, 0.05)),
    "seat_end": ((0.0, 0.12), (-0.08, 0.15), (-0.1, 0.05), (-0.15, 0.05)),  # behind the rear axle where negative
    "tank_height": ((0.13, 0.17), (0.10, 0.15), (0.13, 0.18), (0.08, 0.12)),
    "tank_width": ((0.14, 0.19), (0.12, 0.18), (0.17, 0.22), (0.09, 0.13)),
    "engine_size": ((0.17, 0.21), (0.18, 0.25), (0.2, 0.25), (0.13, 0.17)),
    "engine_width": ((0.15, 0.2), (0.14, 0.2), (0.2, 0.28), (0.1, 0.14)),
    "engine_low": ((0.14, 0.2), (0.12, 0.18), (0.15, 0.2), (0.28, 0.36)),
    "tube_radius": ((0.03, 0.045), (0.024, 0.036), (0.03, 0.042), (0.02, 0.03)),
    # mudguards, cases, windscreen
    "guard_gap": ((0.015, 0.03), (0.015, 0.035), (0.015, 0.03), (0.10, 0.2)),  # off-road: high above the wheel
    "guard_ahead": ((0.3, 0.7), (0.4, 1.1), (0.5, 1.0), (0.5, 0.9)),  # radians before the top
    "guard_behind": ((0.4, 1.0), (0.8, 1.7), (0.9, 1.5), (0.4, 0.8)),
    "back_behind": ((0.5, 0.9), (0.9, 1.7), (0.9, 1.4), (0.4, 0.8)),
    "case_size": ((0.13, 0.16), (0.13, 0.18), (0.17, 0.22), (0.14, 0.18)),
    "case_round": ((0.0, 0.4), (0.2, 1.0), (0.0, 0.5), (0.0, 0.2)),
    "screen_height": ((0.14, 0.26), (0.3, 0.45), (0.3, 0.48), (0.2, 0.3)),
    "screen_lean": ((0.8, 1.15), (0.35, 0.6), (0.45, 0.75), (0.5, 0.6)),
}


def make(draws: Draws, grain: float) -> tuple[dict[str, Surface], Tensor, dict[str, Tensor]]:
    """The parts in the order of `PARTS`, which of them are there (N, P), and the factors (N, 1) each."""
    style = draws.style(STYLE_SHARES)
    there = {name: draws.there(style, shares) for name, shares in SHARES.items()}
    f = draws.factors(style, RANGES)
    arm = surface(tube(grain, 4, 2), lambda p: _swing_arm(p, f))
    leg = surface(tube(grain, 4, 4), lambda p: _fork(p, f))
    case = surface(box(grain, 1, 2, 2), lambda p: _case(p, f))
    made = (
        surface(ring(grain, 16, 5), lambda p: _wheel(p, f, "front")),
        surface(ring(grain, 16, 5), lambda p: _wheel(p, f, "back")),
        joined(surface(tube(grain, 5, 6), lambda p: _frame(p, f)), arm, mirrored(arm)),
        joined(leg, mirrored(leg)),
        surface(tube(grain, 4, 9), lambda p: _bar(p, f)),
        surface(box(grain, 2, 1, 6), lambda p: _saddle(p, f)),
        surface(tube(grain, 6, 4, 2.5), lambda p: _tank(p, f)),
        surface(box(grain, 2, 2, 2, power=6.0), lambda p: _engine(p, f)),
        surface(box(grain, 2, 1, 6), lambda p: _guard(p, f, "front")),
        surface(box(grain, 2, 1, 6), lambda p: _guard(p, f, "back")),
        *(case, mirrored(case)),
        surface(box(grain, 3, 3, 1), lambda p: _screen(p, f)),
    )
    whole, cases = torch.ones_like(there["case"]), there["case"]
    guards = [there["front mudguard"], there["back mudguard"]]
    exists = [*[whole] * 7, there["engine"], *guards, cases, cases, there["windscreen"]]
    return dict(zip(PARTS, made, strict=True)), torch.stack(exists, 1), {"style": style[:, None].double(), **f}


def _axle(f: dict[str, Tensor], end: str) -> tuple[Tensor, Tensor]:
    """Height of an axle and its place along z."""
    return f[f"{end}_radius"], f["wheelbase"] / 2 * (1 if end == "front" else -1)


def _steering(f: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Height and place of the head, to which the fork leads from the front axle."""
    height, place = _axle(f, "front")
    return f["head"], place - (f["head"] - height) * f["rake"].tan()


def _wheel(p: Tensor, f: dict[str, Tensor], end: str) -> Tensor:
    a, b, c = p.unbind(-1)
    height, place = _axle(f, end)
    tyre = f[f"{end}_tyre"]
    far = (b.square() + c.square()).sqrt()
    reach = height - tyre + tyre * (far - 1) / THIN
    return at(tyre * a / THIN, height + reach * b / far, place + reach * c / far)


def _along(p: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], x: Tensor, radius: Tensor) -> Tensor:
    """A straight tube in a plane of constant x, from start (y, z) to end."""
    a, b, c = p.unbind(-1)
    up, ahead = end[0] - start[0], end[1] - start[1]
    length = (up.square() + ahead.square()).sqrt()
    s = (1 + c) / 2
    y = start[0] + up * s + radius * b * ahead / length
    return at(x + radius * a, y, start[1] + ahead * s - radius * b * up / length)


def _fork(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    radius = 0.7 * f["tube_radius"]
    return _along(p, _axle(f, "front"), _steering(f), f["front_tyre"] + 1.3 * radius, radius)


def _pivot(f: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Height and place of the joint of swing arm and frame."""
    return 0.5 * (f["back_radius"] + f["seat"]) - 0.02, -0.12 * f["wheelbase"]


def _swing_arm(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    return _along(p, _axle(f, "back"), _pivot(f), f["back_tyre"] + f["tube_radius"], 0.8 * f["tube_radius"])


def _frame(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    """From the pivot to the head along a parabola that bends upwards first; wide at the pivot, where the swing arm joins."""
    a, b, c = p.unbind(-1)
    s = (1 + c) / 2
    (low, behind), (high, ahead) = _pivot(f), _steering(f)
    middle_y, middle_z = high - 0.15 * (high - low), 0.55 * behind + 0.45 * ahead
    y = (1 - s) ** 2 * low + 2 * s * (1 - s) * middle_y + s**2 * high
    z = (1 - s) ** 2 * behind + 2 * s * (1 - s) * middle_z + s**2 * ahead
    up = 2 * (1 - s) * (middle_y - low) + 2 * s * (high - middle_y)
    on = 2 * (1 - s) * (middle_z - behind) + 2 * s * (ahead - middle_z)
    length = (up.square() + on.square()).sqrt()
    wide = f["tube_radius"] + (f["back_tyre"] + f["tube_radius"]) * (1 - s) ** 4
    return at(wide * a, y + f["tube_radius"] * b * on / length, z - f["tube_radius"] * b * up / length)


def _bar(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    (head, place), radius = _steering(f), 0.6 * f["tube_radius"].clamp(max=0.03)
    y = head + 0.03 + f["bar_rise"] * (1 - (1 - c.square()) ** 2)
    return at(f["bar_half"] * c, y + radius * a, place + 0.02 - f["bar_pull"] * c.square() + radius * b)


def _saddle(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    rear = -f["wheelbase"] / 2 + f["seat_end"]
    front = _tank_place(f) - 0.1
    s = (1 + c) / 2
    step = f["seat_step"] * torch.sigmoid((0.42 - s) / 0.06)
    y = f["seat"] + step + 0.05 * (s - 0.6).clamp(min=0) + f["seat_thickness"] * b - 0.02 * a.square()
    wide = f["seat_width"] * (1 - 0.55 * s**2) * (1 - 0.3 * (1 - s) ** 2)
    return at(wide * a, y, rear + (front - rear) * s)


def _tank_place(f: dict[str, Tensor]) -> Tensor:
    return 0.45 * _steering(f)[1] + 0.55 * _pivot(f)[1] + 0.06


def _tank(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    """A drop, its thick end at the head."""
    a, b, c = p.unbind(-1)
    head, place = _steering(f)
    middle = _tank_place(f)
    half = (place - middle).clamp(min=0.12) + 0.02
    fat = 0.8 + 0.2 * c
    low = 0.5 * (f["seat"] + head) + 0.03
    return at(f["tank_width"] * fat * a, low + f["tank_height"] * (fat * b + 0.25 * c), middle + half * c)


def _engine(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    top = 0.5 * (_pivot(f)[0] + f["head"]) - 0.02
    s = (1 + b) / 2
    y = f["engine_low"] + (top - f["engine_low"]) * s
    return at(f["engine_width"] * (1 - 0.3 * s) * a, y, 0.04 + f["engine_size"] * (1 - 0.25 * s) * c + 0.12 * (s - 0.3))


def _guard(p: Tensor, f: dict[str, Tensor], end: str) -> Tensor:
    """A curved sheet over a wheel."""
    a, b, c = p.unbind(-1)
    height, place = _axle(f, end)
    ahead = f["guard_ahead"] if end == "front" else 0.35 + 0 * f["guard_ahead"]
    behind = f["guard_behind"] if end == "front" else f["back_behind"]
    angle = (ahead - behind) / 2 + (ahead + behind) / 2 * c
    gap = f["guard_gap"] if end == "front" else 0.03 + 0.4 * f["guard_gap"]
    reach = height + gap + 0.008 * b - 0.035 * a.square()
    wide = (f[f"{end}_tyre"] + 0.025) * (1 - 0.25 * c.square())
    return at(wide * a, height + reach * angle.cos(), place + reach * angle.sin())


def _case(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    height, place = _axle(f, "back")
    size, round_ = f["case_size"], f["case_round"]
    y = height + 0.16 + size * 0.8 * b * (1 - 0.3 * round_ * c.square())
    z = place - 0.05 + size * 1.25 * c * (1 - 0.25 * round_ * b.square())
    return at(f["back_tyre"] + 0.13 + 0.085 * a * (1 - 0.2 * b), y, z)


def _screen(p: Tensor, f: dict[str, Tensor]) -> Tensor:
    a, b, c = p.unbind(-1)
    head, place = _steering(f)
    s = (1 + b) / 2
    up = f["screen_height"] * s
    y = head + 0.02 + up * f["screen_lean"].cos() + 0.008 * c * f["screen_lean"].sin()
    z = place + 0.1 - up * f["screen_lean"].sin() + 0.008 * c * f["screen_lean"].cos() - 0.1 * a.square()
    return at(0.2 * (1 - 0.35 * s) * a, y, z)
