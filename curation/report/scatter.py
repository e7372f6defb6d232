"""The picture of two sets of rows in two dimensions: form and colour both tell which is which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from curation.distribution.facts import Comparison, Point

WIDTH, HEIGHT, EDGE, CROSS = 100.0, 56.0, 2.0, 0.55


def scatter(comparison: Comparison) -> str:
    """Training rows as dots, covered real rows as rings, uncovered ones as crosses, drawn last."""
    c = comparison
    every = [*c.training_points, *c.covered_points, *c.uncovered_points]
    if not every:
        return '<p class="empty">There is no row to draw.</p>'
    place = _Scale([p.x for p in every], [p.y for p in every])
    drawn = len(c.covered_points) + len(c.uncovered_points)
    spoken = (
        f"{len(c.training_points):,} training rows and {drawn:,} real rows in two dimensions; "
        f"{len(c.uncovered_points):,} of the real rows drawn are not covered. The tables below name them."
    )
    return (
        f'<svg class="scatter" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(spoken)}">'
        f'<rect class="track" x="0" y="0" width="{WIDTH:g}" height="{HEIGHT:g}" rx="1"/>'
        f'<g class="dots">{_dots(place.points(c.training_points))}</g>'
        f'<g class="rings">{_dots(place.points(c.covered_points))}</g>'
        f'<g class="crosses">{_crosses(place.points(c.uncovered_points))}</g></svg>'
    )


class _Scale:
    """From the rows' places to the picture's."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]):
        self.left, self.top = min(xs), max(ys)
        self.wide, self.high = (max(xs) - self.left) or 1.0, (self.top - min(ys)) or 1.0

    def points(self, points: Iterable[Point]) -> list[tuple[float, float]]:
        inner_width, inner_height = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE
        return [(EDGE + inner_width * (p.x - self.left) / self.wide, EDGE + inner_height * (self.top - p.y) / self.high) for p in points]


def _dots(points: Iterable[tuple[float, float]]) -> str:
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r=".45"/>' for x, y in points)


def _crosses(points: Iterable[tuple[float, float]]) -> str:
    arm = f"{2 * CROSS:g}"
    return "".join(f'<path d="M{x - CROSS:.1f} {y - CROSS:.1f}l{arm} {arm}m0 -{arm}l-{arm} {arm}"/>' for x, y in points)
