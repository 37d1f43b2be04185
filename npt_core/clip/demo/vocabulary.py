"""What a drawn picture can be, as small integers.

A picture is a row of `len(FIELDS)` integers, one value a field; -1 means that no word describes this field of the
picture. A caption is a row of the same form in which -1 means that it does not mention the field. A caption is true of
a picture where every field that it mentions has the picture's value (`captions.is_true`).
"""

from __future__ import annotations

FIELDS: tuple[str, ...] = ("kind", "name", "colour", "texture", "background", "style", "quality")
KIND, NAME, COLOUR, TEXTURE, BACKGROUND, STYLE, QUALITY = range(len(FIELDS))
UNSAID = -1

KINDS: tuple[str, ...] = ("digit", "letter", "shape")
DIGIT, LETTER, SHAPE = range(3)

DIGIT_NAMES: tuple[str, ...] = tuple("0123456789")
DIGIT_WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTER_NAMES: tuple[str, ...] = tuple("abcdefghijklmnopqrstuvwxyz")
SHAPE_NAMES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "ring",
    "arrow",
    "hexagon",
    "diamond",
    "crescent",
    "oval",
    "rectangle",
    "semicircle",
    "spiral",
    "wave",
    "flower",
    "house",
)
SHAPE_SYNONYMS: dict[str, tuple[str, ...]] = {
    "oval": ("ellipse",),
    "diamond": ("rhombus",),
    "cross": ("plus",),
    "semicircle": ("half circle",),
    "crescent": ("moon",),
}
# One numbering for all names: digits, then letters, then shapes.
NAMES: tuple[str, ...] = DIGIT_NAMES + LETTER_NAMES + SHAPE_NAMES
FIRST_LETTER = len(DIGIT_NAMES)
FIRST_SHAPE = FIRST_LETTER + len(LETTER_NAMES)

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.10, 0.10),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.25, 0.85),
    "yellow": (0.96, 0.88, 0.12),
    "orange": (0.98, 0.54, 0.08),
    "purple": (0.50, 0.15, 0.65),
    "pink": (0.98, 0.60, 0.75),
    "brown": (0.44, 0.26, 0.12),
    "black": (0.04, 0.04, 0.04),
    "white": (0.97, 0.97, 0.97),
    "gray": (0.52, 0.52, 0.52),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
BLACK, WHITE, GRAY = COLOUR_NAMES.index("black"), COLOUR_NAMES.index("white"), COLOUR_NAMES.index("gray")

TEXTURE_NAMES: tuple[str, ...] = ("solid", "striped", "dotted", "checkered", "outlined", "speckled")
SOLID, STRIPED, DOTTED, CHECKERED, OUTLINED, SPECKLED = range(len(TEXTURE_NAMES))
# A line has no inside: an outline of these would look like nothing in particular.
LINE_SHAPES: frozenset[str] = frozenset({"spiral", "wave"})

STYLE_NAMES: tuple[str, ...] = ("printed", "handwritten")
PRINTED, HANDWRITTEN = range(2)

QUALITY_NAMES: tuple[str, ...] = ("sharp", "blurry", "low resolution", "noisy")
SHARP, BLURRY, LOW_RESOLUTION, NOISY = range(4)
