"""The loss curve of a run as a small SVG, which any browser and any model hub shows: training and validation loss over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 260, 56, 26, 16, 36
Points = Sequence[tuple[float, float]]


def loss_picture(history: Sequence[Mapping[str, Any]]) -> str:
    """The picture of a trainer's log history; the best validation loss is marked."""
    train = [(float(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]
    validation = [(float(entry["step"]), float(entry["eval_loss"])) for entry in history if "eval_loss" in entry]
    points = [*train, *validation]
    if not points:
        raise ValueError("a history without a loss has no picture")
    low, high = min(y for _, y in points), max(y for _, y in points)
    steps, spread = max(1.0, *(x for x, _ in points)), (high - low) or 1.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return LEFT + (WIDTH - LEFT - RIGHT) * x / steps, TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / spread

    best = min(validation, key=lambda point: (point[1], point[0]), default=None)
    spoken = f"Training loss {train[0][1]:.3f} to {train[-1][1]:.3f} over {steps:.0f} steps" if train else "Validation loss"
    spoken += f"; best validation loss {best[1]:.4f} at step {best[0]:.0f}" if best else ""
    shapes = [
        _line([at(p) for p in train], "#8a8a8a", 1.2),
        _line([at(p) for p in validation], "#b3541e", 2),
        *(_dot(at(p), 2.5) for p in validation if len(validation) <= 40),
        *([_dot(at(best), 5)] if best else []),
        _text(LEFT - 6, TOP + 4, f"{high:.3g}", "end"),
        _text(LEFT - 6, HEIGHT - BOTTOM, f"{low:.3g}", "end"),
        _text(LEFT, HEIGHT - BOTTOM + 18, "0", "middle"),
        _text(WIDTH - RIGHT, HEIGHT - BOTTOM + 18, f"{steps:.0f} steps", "end"),
        _text(LEFT, 14, spoken, "start"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{spoken}"><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#555"/>{"".join(shapes)}</svg>\n'
    )


def _line(points: Points, colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _dot(point: tuple[float, float], radius: float) -> str:
    return f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius}" fill="#b3541e"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-family="sans-serif" font-size="12" fill="#333">{words}</text>'
