"""Measure which copies of photos are found as near-duplicates, and what is found among the originals.

    python benchmarks/quality/near_duplicates.py [--copies 120] [--sheet PAIRS.png]

Of each shared data set some photos are copied in each way, and put among all originals of that set; a copy counts as
found if it is paired with its original. Pairs of originals were looked at (`--sheet` draws them): those that are the
same picture, or the same thing at nearly the same moment, are right.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from headstart.data.duplicates import Pair, near_duplicates
from headstart.data.looking import Looks, look_at
from headstart.store import Store

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "near_duplicates.json"
SETS = ("caltech101-20", "clothing-small", "flowers5", "hymenoptera", "trashnet")
WRONG = 2  # of the pairs among the originals, after looking at each of them: tops of different cans, in trashnet
SHARE = 0.15  # by which light edits change brightness, contrast and colour

Edit = Callable[[Image.Image, random.Random], bytes]


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Save it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    """Save it without loss."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def scaled(image: Image.Image, by: float) -> Image.Image:
    """Resize it."""
    return image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC)


def light(image: Image.Image, rng: random.Random) -> Image.Image:
    """Change brightness, contrast and colour, each up or down."""
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(1 + rng.choice((-SHARE, SHARE)))
    return image


def marked(image: Image.Image, rng: random.Random) -> Image.Image:
    """Write something into a corner."""
    image = image.copy()
    size = max(9, image.height // 14)
    place = rng.choice([(4, 4), (4, image.height - size - 6), (image.width // 2, image.height - size - 6)])
    text = ImageDraw.Draw(image)
    text.text(place, "(c) photo 2024", fill=rng.choice(["white", "black"]), font=ImageFont.load_default(size))
    return image


def burst(image: Image.Image, rng: random.Random, degrees: float, moved: float) -> Image.Image:
    """The next frame of a camera in somebody's hand."""
    width, height = image.size
    turned = image.rotate(rng.uniform(-degrees, degrees), Image.Resampling.BICUBIC)
    size = rng.uniform(1 - moved, 1) * (1 - moved)
    left, upper = rng.uniform(0, width * (1 - size)), rng.uniform(0, height * (1 - size))
    box = (left, upper, left + width * size, upper + height * size)
    frame = turned.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return ImageEnhance.Brightness(frame).enhance(rng.uniform(0.95, 1.05))


def cropped(image: Image.Image, rng: random.Random, share: float) -> Image.Image:
    """A part of it, of this share of its area."""
    width, height = (round(side * share**0.5) for side in image.size)
    left, upper = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, upper, left + width, upper + height))


EDITS: dict[str, Edit] = {
    "JPEG, quality 30": lambda image, rng: jpeg(image, 30),
    "JPEG, quality 60": lambda image, rng: jpeg(image, 60),
    "JPEG, quality 95": lambda image, rng: jpeg(image, 95),
    "PNG": lambda image, rng: png(image),
    "x 0.25": lambda image, rng: jpeg(scaled(image, 0.25), 90),
    "x 0.5": lambda image, rng: jpeg(scaled(image, 0.5), 90),
    "x 2": lambda image, rng: jpeg(scaled(image, 2), 90),
    "brightness, contrast, colour +-15 %": lambda image, rng: jpeg(light(image, rng), 85),
    "in grey": lambda image, rng: jpeg(image.convert("L"), 85),
    "a text on it": lambda image, rng: jpeg(marked(image, rng), 85),
    "half size, other light, text, quality 60": lambda image, rng: jpeg(
        light(marked(scaled(image, 0.5), rng), rng), 60
    ),
    "mirrored": lambda image, rng: jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 85),
    "burst: up to 0.5 degrees, 2 %": lambda image, rng: jpeg(burst(image, rng, 0.5, 0.02), 85),
    "burst: up to 1.5 degrees, 4 %": lambda image, rng: jpeg(burst(image, rng, 1.5, 0.04), 85),
    "90 % of the area": lambda image, rng: jpeg(cropped(image, rng, 0.9), 85),
    "70 % of the area": lambda image, rng: jpeg(cropped(image, rng, 0.7), 85),
}


class Content:
    """Bytes that are read like a file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_bytes(self) -> bytes:
        """All of them."""
        return self.content


def id_of(content: bytes) -> str:
    """The hash that names a content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def pairs_of(contents: list[bytes], store: Store) -> list[Pair]:
    """What is found among these."""
    work = look_at({id_of(content): [Content(content)] for content in contents}, store)
    while True:
        try:
            next(work)
        except StopIteration as end:
            looks: Looks = end.value
            return near_duplicates(looks)


def sheet(pairs: list[tuple[Path, Path, str]], path: Path, columns: int = 6, side: int = 95) -> None:
    """Draw pairs, to be looked at."""
    rows = -(-len(pairs) // columns)
    page = Image.new("RGB", (columns * (2 * side + 12), rows * (side + 14)), "white")
    for place, (one, other, text) in enumerate(pairs):
        x, y = place % columns * (2 * side + 12), place // columns * (side + 14)
        for number, each in enumerate((one, other)):
            page.paste(Image.open(each).convert("RGB").resize((side, side)), (x + number * side, y + 12))
        ImageDraw.Draw(page).text((x, y), text, fill="red")
    page.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--copies", type=int, default=120)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()

    found = dict.fromkeys(EDITS, 0)
    strangers = dict.fromkeys(EDITS, 0)
    copies, photos, combinations = 0, 0, 0
    drawn: list[tuple[Path, Path, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for name in SETS:
            paths = sorted((arguments.shared / name).rglob("*.jpg"))
            contents = [path.read_bytes() for path in paths]
            places = {id_of(content): path for content, path in zip(contents, paths, strict=True)}
            own = {(pair.one, pair.other) for pair in pairs_of(contents, store)}
            drawn += [(places[one], places[other], name) for one, other in sorted(own)]
            photos, combinations = photos + len(places), combinations + len(places) * (len(places) - 1) // 2
            rng = random.Random(0)
            chosen = rng.sample(range(len(paths)), min(arguments.copies, len(paths)))
            copies += len(chosen)
            for edit, make in EDITS.items():
                made = {id_of(copy := make(Image.open(paths[place]).convert("RGB"), rng)): copy for place in chosen}
                originals = dict(zip(made, (id_of(contents[place]) for place in chosen), strict=True))
                pairs = {(pair.one, pair.other) for pair in pairs_of(contents + list(made.values()), store)}
                right = {(min(copy, original), max(copy, original)) for copy, original in originals.items()}
                found[edit] += len(pairs & right)
                # Of other originals, those that are near-duplicates of the right one are right as well.
                like = {original: {original} for original in originals.values()}
                for one, other in own:
                    like.setdefault(one, {one}).add(other)
                    like.setdefault(other, {other}).add(one)
                strangers[edit] += sum(
                    other not in like[originals[copy]] and other not in made
                    for pair in pairs - right - own
                    for copy, other in (pair, pair[::-1])
                    if copy in made
                )
            print(name, {edit: found[edit] / copies for edit in EDITS}, flush=True)
    if arguments.sheet:
        sheet(drawn, arguments.sheet)
    rows = [
        {"copy": edit, "found": found[edit] / copies, "paired with another photo": strangers[edit]} for edit in EDITS
    ]
    result = {
        "benchmark": "near-duplicates",
        "description": f"Share of {copies} copies of real photos, from five sets, that are found among all {photos:,} "
        f"originals. Of the originals themselves, {len(drawn)} of {combinations:,} pairs are found; looked at one by "
        f"one, {len(drawn) - WRONG} of them are the same picture or the same moment, and {WRONG} are not.",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
