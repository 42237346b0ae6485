"""Foreign objects in the image, as in MedMNIST-C: ink, bubbles, the edge of an eyepiece, text."""

import string
from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from .draws import RandomSources

MARGIN = 10  # pixels between ink or text and the edges
FEWEST_BUBBLES, SMALLEST_BUBBLE, RIM = 7, 3, 2
VEIL = 100  # opacity of a bubble, out of 255; its rim has 30 more
SHORTEST_WORD, SMALLEST_FONT, LETTER = 3, 14, 8  # letters, hundredths of OpenCV's scale, pixels per letter


@cache
def ink_masks(size: int) -> np.ndarray:
    """The benchmark's own ink marks (10, size, size) of 0 and 1, at 24 or 32 pixels (Apache-2.0)."""
    with np.load(BytesIO(files(__package__).joinpath("inks.npz").read_bytes()), allow_pickle=False) as stored:
        return stored[f"size_{size}"]


def draw_marks(draws: RandomSources, image: np.ndarray, stains: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Index and upper left corner of each mark: 1 to `stains[0]` marks of `stains[1]` pixels."""
    most, size = stains
    count = draws.python.randint(1, most) if most > 1 else most
    last = len(ink_masks(size)) - 1
    height, width = image.shape[:2]
    return [(draws.python.randint(0, last), draws.python.randint(MARGIN, width - size - MARGIN),
             draws.python.randint(MARGIN, height - size - MARGIN)) for _ in range(count)]  # fmt: skip


def stain(image: np.ndarray, stains: tuple[int, int], marks: list[tuple[int, int, int]]) -> np.ndarray:
    """Black ink."""
    size, stained = stains[1], image.copy()
    for number, x, y in marks:
        stained[y : y + size, x : x + size] *= (1 - ink_masks(size)[number])[..., None].astype(np.uint8)
    return stained


def draw_circles(draws: RandomSources, image: np.ndarray, bubbles: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Radius and centre of each bubble: radii up to `bubbles[0]`, 7 to `bubbles[1]` of them."""
    largest, most = bubbles
    height, width = image.shape[:2]
    circles = []
    for _ in range(draws.python.randint(FEWEST_BUBBLES, most)):
        radius = draws.python.randint(SMALLEST_BUBBLE, largest)
        x = draws.python.randint(radius, width - radius)
        circles.append((radius, x, draws.python.randint(radius, height - radius)))
    return circles


def add_bubbles(image: np.ndarray, bubbles: tuple[int, int], circles: list[tuple[int, int, int]]) -> np.ndarray:
    """Add white veils with a rim; later ones cover earlier ones."""
    picture = Image.fromarray(image)
    veil = Image.new("RGBA", picture.size, (255, 255, 255, 0))
    pen = ImageDraw.Draw(veil)
    for radius, x, y in circles:
        for reach, opacity in ((radius + RIM, VEIL + 30), (radius, VEIL)):
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(255, 255, 255, opacity))
    picture.paste(veil, (0, 0), veil)
    return np.array(picture)


def blacken_corners(image: np.ndarray, factor: float) -> np.ndarray:
    """Blacken everything outside a circle with `factor` times half the shorter side as radius."""
    import cv2

    height, width = image.shape[:2]
    x, y = width // 2, height // 2
    circle = np.zeros((height, width), np.uint8)
    cv2.circle(circle, (x, y), int(min(x, y, width - x, height - y) * factor), (255,), thickness=-1)
    return np.where(circle[..., None] == 255, image, 0).astype(np.uint8)


def draw_words(draws: RandomSources, image: np.ndarray, text: tuple[int, int, float]) -> list[tuple]:
    """(word, lower left corner, font scale, colour) of up to `text[0]` words with 3 to `text[1]` letters each."""
    most, longest, scale = text
    height, width = image.shape[:2]
    words = []
    for _ in range(draws.python.randint(1, most)):
        length = draws.python.randint(SHORTEST_WORD, longest)
        font = draws.python.randint(SMALLEST_FONT, int(scale * 100)) / 100.0
        word = "".join(draws.python.choice(string.ascii_lowercase) for _ in range(length))
        x = draws.python.randint(MARGIN, width - LETTER * length)
        y = draws.python.randint(MARGIN, height - MARGIN)
        colour = tuple(draws.python.randint(0, 255) for _ in range(3))
        words.append((word, (x, y), font, colour))
    return words


def write_words(image: np.ndarray, text: tuple[int, int, float], words: list[tuple]) -> np.ndarray:
    """Write small text in OpenCV's font."""
    import cv2

    written = image.copy()
    for word, corner, font, colour in words:
        written = cv2.putText(written, word, corner, cv2.FONT_HERSHEY_DUPLEX, font, colour, 1, cv2.LINE_AA)
    return written
