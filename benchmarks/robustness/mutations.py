"""Damage image files of every format at random and decode them: nothing may crash, hang or eat memory.

    python benchmarks/robustness/mutations.py [--count 10000]

Each kind of file is damaged in a process of its own, which decodes as headstart does; this one watches it. A process
that dies is a crash, one that is busy with a file for longer than `LIMIT` seconds a hang; both are printed with the
number of the damage, which is the same every time, and the rest goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from headstart.modalities.image import ImageModality
from headstart.modalities.modality import Undecodable
from headstart.modalities.spec import InputSpec

RESULT = Path(__file__).parents[1] / "results" / "mutations.json"
LIMIT = 20.0  # seconds for one file
FITS = ("crop", "pad", "squash")


def seeds() -> dict[str, bytes]:
    """A whole file of each kind."""
    x, y = np.meshgrid(np.linspace(0, 1, 150), np.linspace(0, 1, 100))
    scene = Image.fromarray(np.stack([x * 255, y * 255, 127 + 127 * np.sin(7 * x + 3 * y)], axis=-1).astype(np.uint8))
    grey = scene.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256)
    alpha = scene.convert("RGBA")
    alpha.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112] = 6

    def saved(image: Image.Image, format: str, **options: Any) -> bytes:
        file = io.BytesIO()
        if options.get("save_all"):
            options["append_images"] = [scene.rotate(180), scene.rotate(90)]
        image.copy().save(file, format, **options)
        return file.getvalue()

    files = {
        "JPEG": saved(scene, "JPEG", exif=exif),
        "JPEG, progressive": saved(scene, "JPEG", progressive=True),
        "JPEG in CMYK": saved(scene.convert("CMYK"), "JPEG"),
        "JPEG of several photos": saved(scene, "MPO", save_all=True),
        "PNG": saved(scene, "PNG", exif=exif),
        "PNG with a palette": saved(scene.quantize(64), "PNG", transparency=3),
        "PNG with alpha": saved(alpha, "PNG"),
        "PNG of 16 bits": saved(deep, "PNG"),
        "PNG, animated": saved(scene, "PNG", save_all=True),
        "WebP": saved(scene, "WEBP", exif=exif),
        "WebP, lossless with alpha": saved(alpha, "WEBP", lossless=True),
        "WebP, animated": saved(scene, "WEBP", save_all=True),
        "GIF": saved(scene, "GIF"),
        "GIF, animated": saved(scene, "GIF", save_all=True),
        "BMP": saved(scene, "BMP"),
        "BMP with a palette": saved(scene.quantize(64), "BMP"),
        "TIFF": saved(scene, "TIFF", exif=exif),
        "TIFF, LZW": saved(scene, "TIFF", compression="tiff_lzw"),
        "TIFF, deflate, several pages": saved(scene, "TIFF", compression="tiff_adobe_deflate", save_all=True),
        "TIFF, JPEG inside": saved(scene, "TIFF", compression="jpeg"),
        "TIFF of 1 bit, fax": saved(scene.convert("1"), "TIFF", compression="group4"),
        "TIFF of fractions": saved(scene.convert("F"), "TIFF"),
    }
    if features.check("avif"):
        files |= {"AVIF": saved(scene, "AVIF", exif=exif), "AVIF, animated": saved(scene, "AVIF", save_all=True)}
    if features.check("jpg_2000"):
        tiles = {"tile_size": (64, 64)}
        files |= {"JPEG 2000": saved(scene, "JPEG2000"), "JPEG 2000 in tiles": saved(scene, "JPEG2000", **tiles)}
    return files


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, more often in the header; now and then a piece cut out, doubled or broken off."""
    file = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        reach = min(len(file), 400) if rng.random() < 0.6 else len(file)
        place = int(rng.integers(reach))
        file[place] = file[place] ^ (1 << int(rng.integers(8))) if rng.random() < 0.3 else int(rng.integers(256))
    place, length = int(rng.integers(len(file))), int(rng.integers(1, 64))
    match rng.random():
        case draw if draw < 0.08:
            del file[place : place + length]
        case draw if draw < 0.16:
            file[place:place] = file[place : place + length]
        case draw if draw < 0.28:
            del file[max(1, place) :]
    return bytes(file)


def attempt(content: bytes, number: int) -> str:
    """What became of this file: `picture`, or the reason why it was refused."""
    spec = InputSpec(
        size=64,
        crop=0.875,
        interpolation="bicubic",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        fit=FITS[number % 3],  # type: ignore[arg-type]
    )
    modality = ImageModality()
    try:
        if number % 4 == 3:
            picture = modality.augment(content, spec, np.random.default_rng(number))
        else:
            picture = modality.decode(content, spec, reduced=number % 2 == 1)
    except Undecodable as problem:
        return str(problem)
    assert picture.shape == (64, 64, 3)
    return "picture"


def resident() -> float:
    """Megabytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def work(name: str, content: bytes, numbers: range, at: Synchronized[int], told: Any) -> None:
    """Damage and decode, one after the other; tells where it is, and in the end what it saw."""
    seen: Counter[str] = Counter()
    slowest, early = 0.0, 0.0
    for place, number in enumerate(numbers):
        at.value = number
        file = damaged(content, np.random.default_rng([number, len(content)]))
        began = time.monotonic()
        outcome = attempt(file, number)
        slowest = max(slowest, time.monotonic() - began)
        seen["pictures" if outcome == "picture" else "refused"] += 1
        if place == len(numbers) // 10:
            early = resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    told.put((dict(seen), slowest, early, resident(), peak))


def watched(name: str, content: bytes, count: int) -> dict[str, Any]:
    """All damages of one kind of file."""
    context = multiprocessing.get_context("spawn")
    row: dict[str, Any] = {"kind": name, "files": count, "pictures": 0, "refused": 0, "crashes": 0, "hangs": 0}
    row |= {"slowest, s": 0.0, "memory early, MB": 0.0, "memory at the end, MB": 0.0, "peak, MB": 0.0}
    first = 0
    while first < count:
        at, told = context.Value("i", first), context.Queue()
        child = context.Process(target=work, args=(name, content, range(first, count), at, told))
        child.start()
        last, since, result = -1, time.monotonic(), None
        while result is None and child.is_alive():
            with suppress(Exception):
                result = told.get(timeout=0.2)
            if at.value != last:
                last, since = at.value, time.monotonic()
            if time.monotonic() - since > LIMIT + 10 * (last == first):  # the first waits for imports
                child.kill()
                row["hangs"] += 1
                print("HANG", name, at.value, flush=True)
                break
        with suppress(Exception):
            result = result or told.get(timeout=1)
        child.join()
        if result is None:
            if child.exitcode != -9:
                row["crashes"] += 1
                print("CRASH", name, at.value, child.exitcode, flush=True)
            first = at.value + 1
            continue
        seen, slowest, early, late, peak = result
        row |= {key: row[key] + value for key, value in seen.items()}
        row |= {"slowest, s": slowest, "memory early, MB": early, "memory at the end, MB": late, "peak, MB": peak}
        first = count
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="files in all")
    arguments = parser.parse_args()
    files = seeds()
    each = -(-arguments.count // len(files))
    rows = [watched(name, content, each) for name, content in files.items()]
    total: dict[str, Any] = {"kind": "all"}
    total |= {key: sum(row[key] for row in rows) for key in ("files", "pictures", "refused", "crashes", "hangs")}
    total |= {key: max(row[key] for row in rows) for key in ("slowest, s", "peak, MB")}
    result = {
        "benchmark": "Damaged image files",
        "description": "Random changes of bytes in files of each kind, decoded one after the other in one process a "
        "kind, in all three fits, plainly, reduced and augmented. Goal: no crash, no hang, and no more memory at the "
        "end than early on (after a tenth of the files).",
        "limit": "",
        "rows": [*rows, total],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
