"""Draws how masks and resets act on states: equations (4) to (6) of `jaxrnn/bptt.py`.

    python -m docs.figures.states

writes docs/figures/states.svg.
"""

from pathlib import Path

WIDTH, HEIGHT = 520, 410
DATA, CONTROL, RESET = "#3949ab", "#757575", "#d84315"

# The example below the step: mask and reset of steps 1 to 7.
MASK = (True, True, True, True, False, False, True)
RESETS = (False, False, False, True, False, False, False)
FIRST, PITCH, ROW = 60, 66, 335


def text(x, y, words, color="#212121", size=15, anchor="middle", style="normal"):
    return (
        f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}" '
        f'text-anchor="{anchor}" font-style="{style}">{words}</text>'
    )


def line(*points, color=DATA, dashed=False, arrow=True):
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    head = f' marker-end="url(#{color[1:]})"' if arrow else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"'
        f"{dash}{head}/>"
    )


def head(color):
    """The head of an arrow of this color."""
    return (
        f'<marker id="{color[1:]}" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="5" markerHeight="5" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{color}"/></marker>'
    )


def selection(x, true, false):
    """A selection: its inputs at the heights of True and False, its output between."""
    corners = (x, true - 15), (x + 26, true - 2), (x + 26, false + 2), (x, false + 15)
    path = " ".join(f"{a},{b}" for a, b in corners)
    return [
        f'<polygon points="{path}" fill="#e8eaf6" stroke="{DATA}" stroke-width="1.5"/>',
        text(x + 11, true + 5, "T", CONTROL, 12),
        text(x + 11, false + 5, "F", CONTROL, 12),
    ]


def box(x, y, width, height, words, fill, color=DATA, dashed=False):
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" '
        f'stroke="{color}" stroke-width="1.5"{dash}/>',
        text(x + width / 2, y + height / 2 + 5, words),
    ]


def one_step():
    """The selections of a step, and what controls them."""
    return [
        # (4): the state from which the step starts.
        text(28, 110, "s[t-1]"),
        line((54, 105), (100, 105)),
        text(40, 150, "r", RESET),
        line((50, 145), (100, 145), color=RESET),
        *selection(100, 105, 145),
        line((113, 190), (113, 156), color=CONTROL, dashed=True),
        text(113, 206, "linked[t]", CONTROL),
        text(113, 225, "(4)", CONTROL, 13),
        # The step.
        text(166, 117, "s̃[t-1]"),
        line((126, 125), (210, 125)),
        text(245, 48, "u[t]"),
        line((245, 55), (245, 100)),
        *box(210, 100, 70, 50, "step", "#c5cae9"),
        # (5): the state after it.
        line((190, 125), (190, 168), (345, 168)),
        line((280, 125), (345, 125)),
        *selection(345, 125, 168),
        line((371, 146), (460, 146)),
        text(482, 151, "s[t]"),
        line((358, 212), (358, 178), color=CONTROL, dashed=True),
        text(358, 228, "mask[t]", CONTROL),
        text(358, 247, "(5)", CONTROL, 13),
        # (6): the output.
        line((312, 125), (312, 62), (400, 62)),
        text(345, 53, "h[t]"),
        text(384, 105, "0"),
        line((390, 99), (400, 99), arrow=False),
        *selection(400, 62, 99),
        line((426, 80), (460, 80)),
        text(485, 85, "hs[t]"),
        line((413, 36), (413, 54), color=CONTROL, dashed=True),
        text(413, 29, "mask[t]", CONTROL),
        text(456, 29, "(6)", CONTROL, 13),
    ]


def sequence():
    """Seven steps: what each starts from, and what it leaves."""
    drawn = [text(FIRST - 54, ROW + 5, "s[0]", anchor="start")]
    state = 0
    for i, (there, reset) in enumerate(zip(MASK, RESETS, strict=True)):
        x, t = FIRST + i * PITCH, i + 1
        drawn.append(text(x + 22, ROW - 38, t, CONTROL))
        if reset:
            corner = (x - 12, ROW + 28), (x - 12, ROW), (x - 1, ROW)
            drawn.append(line(*corner, color=RESET))
            drawn.append(text(x - 12, ROW + 44, "r", RESET))
        else:
            drawn.append(line((x - 21, ROW), (x - 1, ROW)))
        state = t if there else state
        fill, words = ("#c5cae9", "step") if there else ("#ffffff", "copy")
        drawn += box(x, ROW - 18, 44, 36, words, fill, dashed=not there)
        drawn.append(text(x + 44, ROW - 24, f"s[{state}]", size=13))
        drawn.append(line((x + 22, ROW + 18), (x + 22, ROW + 40)))
        drawn.append(text(x + 22, ROW + 57, f"h[{t}]" if there else "0", size=13))
    return drawn


def draw():
    marks = "".join(head(color) for color in (DATA, CONTROL, RESET))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">',
        f"<defs>{marks}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        *one_step(),
        *sequence(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
