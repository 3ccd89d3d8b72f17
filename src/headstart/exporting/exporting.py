"""Export a finished run: write its model in a format, compare it with the run, and keep it if both agree."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8

from headstart.answering import Answerer, answerer
from headstart.data.member import bytes_of
from headstart.errors import BadExport
from headstart.events import Event, Note, PhaseEnded
from headstart.exporting import papers, parity
from headstart.exporting.bundle import Bundle, Manifest, is_bundle
from headstart.exporting.format import FORMATS, Engine, Format, Precision, Whole, named, on_canvas
from headstart.modalities.modality import Undecodable
from headstart.modalities.upright import PIXEL_LIMIT
from headstart.runs import Run
from headstart.writing import room_for

_FREE = "free some space and export again"


def export(run: str | Path, *, to: str, out: Path | None, precision: Precision) -> Generator[Event, None, Bundle]:
    """Make a bundle of a finished run; nothing is left behind where it fails.

    Raises:
        BadRun: there is no such run, or it is not finished.
        BadExport: the format cannot take the model, a library is missing, or the answers differ.
        DiskFull: there is no room for it.
    """
    began = time.monotonic()
    if is_bundle(run):
        raise BadExport(f"{str(run)!r} is a bundle, which was exported already", fix="give the run that it was made of")
    opened = Run.open(run)
    form = named(to)
    engine = engine_of(opened)
    check_possible(form, engine, precision)
    out = default_path(opened.path, to, precision) if out is None else out
    _check_new(out)
    form.check_installed(engine, precision)
    parity.chosen(opened)  # refuses photos that are gone before the work, not after it
    with _whole_folder(out) as folder:
        model = answerer(opened, "cpu")  # the graph is compared there, whatever the run was trained on
        asked = parity.Asked.of(opened, model)
        yield PhaseEnded(name="opening", seconds=time.monotonic() - began)
        manifest = _manifest(opened, model, form, precision)
        form.write(_whole(opened, model, manifest, engine), folder, precision)
        papers.write(opened, manifest, form, folder)
        yield PhaseEnded(name=f"{to} graph", seconds=time.monotonic() - began)
        # Sealed when both agree: what is left of an export that is killed is no bundle.
        graph = form.open(Bundle.listing(folder, manifest))
        found = yield from parity.compare(asked, graph, precision)
        found.check()
        yield Note(text=found.sentence)
        manifest = replace(manifest, parity=found.to_json())
        papers.write(opened, manifest, form, folder)  # with what came out
        Bundle.seal(folder, manifest)
    yield PhaseEnded(name="bundle", seconds=time.monotonic() - began)
    return Bundle.open(out)


def engine_of(run: Run) -> Engine:
    """What the run was trained with."""
    framework = str(run.backbone.get("framework", "torch"))
    if framework != "keras":
        return cast(Engine, framework)
    return cast(Engine, run.backbone["about"]["engine"])


def default_path(run: Path, to: str, precision: Precision, base: Path = Path("exports")) -> Path:
    """`exports/NAME-FORMAT-1`, with the precision where it is not fp32, or the first number that is free."""
    name = f"{run.resolve().name}-{to}" + ("" if precision == "fp32" else f"-{precision}")
    return _free(base, name)


def _free(base: Path, name: str) -> Path:
    """`base/name-1`, or the first number that is free."""
    number = 1
    while (base / f"{name}-{number}").exists():
        number += 1
    return base / f"{name}-{number}"


def check_possible(form: Format, engine: Engine, precision: Precision) -> None:
    """Refuse what this format is not for, before any work.

    Raises:
        BadExport: it has no such precision, or does not take models of this framework.
    """
    able = [name for name, other in FORMATS.loadable().items() if _reason(other, engine, precision) is None]
    if precision not in form.precisions:
        ways = [f"--precision {' or '.join(form.precisions)}"] if form.refusal(engine, "fp32") is None else []
        ways += [f"--to {' or '.join(able)} with --precision {precision}"] if able else []
        why = form.refusal(engine, precision)
        what = f"format {form.name!r} is not written in {precision}" + (f": {why}" if why else "")
        raise BadExport(what, fix=f"use {', or '.join(ways)}")
    reason = _reason(form, engine, precision)
    if reason is not None:
        others = " or ".join(able) or "another format"
        raise BadExport(f"this run was trained with {engine}, and {reason}", fix=f"use --to {others}")


def _reason(form: Format, engine: Engine, precision: Precision) -> str | None:
    """Why a model of this framework is not written so; None where it is."""
    if precision not in form.precisions:
        return f"{form.name} has no {precision}"
    return form.refusal(engine, precision)


def _check_new(out: Path) -> None:
    """Refuse a folder that exists or cannot be made, before any work.

    Raises:
        BadExport: with the way out.
    """
    if out.exists() or out.is_symlink():
        what = "a bundle" if is_bundle(out) else "a folder" if out.is_dir() else "a file"
        raise BadExport(
            f"{str(out)!r} exists already: {what}",
            fix=f"give a folder that does not exist yet, such as --out {_free(out.parent, out.name)}",
        )
    parent = next((folder for folder in out.absolute().parents if folder.exists()), Path(out.anchor))
    if not parent.is_dir():
        raise BadExport(f"{str(out)!r} cannot be made: {str(parent)!r} is not a folder", fix="choose another --out")


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end; none is left where something fails.

    Raises:
        BadExport: it cannot be made.
        DiskFull: there is no room.
    """
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    above = [folder for folder in temporary.parents if not folder.exists()]
    try:
        temporary.mkdir(parents=True)
    except OSError as problem:
        raise BadExport(f"{str(out)!r} cannot be made: {problem.strerror}", fix="choose another --out") from problem
    try:
        with room_for(temporary / "graph", fix=_FREE):
            yield temporary
            if out.exists():
                raise BadExport(f"{str(out)!r} was made by another in the meantime", fix="export to another folder")
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in above:
            with suppress(OSError):  # of a folder that holds the bundle, or what others put there
                folder.rmdir()


def _manifest(run: Run, model: Answerer, form: Format, precision: Precision) -> Manifest:
    novelty, heat = model.novelty, model.network.linear_on_mean is not None
    outputs = ["probabilities", *(["distance"] if novelty is not None else []), *(["heat"] if heat else [])]
    return Manifest(
        format=form.name,
        precision=precision,
        classes=run.classes,
        spec=model.spec,
        outputs=tuple(outputs),
        temperature=model.temperature,
        threshold=novelty.threshold if novelty is not None else None,
        false_alarms=novelty.false_alarms if novelty is not None else None,
        backbone={
            name: run.backbone[name]
            for name in ("name", "licence", "weights_hash", "framework")
            if name in run.backbone
        },
        max_pixels=run.settings.max_pixels or PIXEL_LIMIT,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        card=papers.facts(run),
        headstart=importlib.metadata.version("headstart"),
    )


def _whole(run: Run, model: Answerer, manifest: Manifest, engine: Engine) -> Whole:
    whole = model.network.whole(
        temperature=model.temperature,
        views=model.views,
        novelty=model.novelty,
        heat="heat" in manifest.outputs,
    )
    return Whole(engine=engine, model=whole, manifest=manifest, samples=_samples(run, model, manifest))


def _samples(run: Run, model: Answerer, manifest: Manifest) -> Iterator[UInt8[np.ndarray, "1 h w 3"]]:
    """Photos of the training in a mixed order, as the backbone's square sees them: what is small is fast to use."""
    files = run.dataset.train.files
    for row in np.random.default_rng(0).permutation(len(files)):
        try:
            picture = model.modality.decode(bytes_of(files[row]), model.spec)
        except (OSError, Undecodable):
            continue  # it was there when the run was made; others will do
        yield on_canvas(picture[None], manifest)
