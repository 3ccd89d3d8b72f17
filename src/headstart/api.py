"""Do the whole job from Python: one function a verb, each the same as the command of its name.

The command line is made from these signatures and docstrings, so what is said here is what `--help` says.
Nothing heavy is imported before a verb is called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from headstart.config import Device, Fit, Framework, Precision, Quality, Settings, Switch
from headstart.outcome import outcome

if TYPE_CHECKING:
    from headstart.auditing import Audit
    from headstart.backbones.backbone import Entry
    from headstart.dry_run import Plan
    from headstart.evaluation.evaluation import Evaluation
    from headstart.events import Event
    from headstart.explaining.explanation import Explanation
    from headstart.exporting.bundle import Bundle
    from headstart.prediction import Prediction
    from headstart.ranking.result import Ranking
    from headstart.report.making import Report
    from headstart.runs import Run
    from headstart.store import CacheUsage

Place = str | PathLike[str]
ByClass = Place | Mapping[str, float]
Names = str | Sequence[str]
ExportPrecision = Literal["fp32", "fp16", "int8"]
ByName = Mapping[str, Place] | Sequence[str]
Seen = TypeVar("Seen", bound="Event")
Result = TypeVar("Result")


@overload
def train(
    data: Place | None = None,
    *,
    backbone: str | None = None,
    out: Place | None = None,
    quality: Quality | None = None,
    time_limit: str | float | None = None,
    seed: int | None = None,
    config: Place | None = None,
    dry_run: Literal[False] = False,
    head: str | None = None,
    unfreeze: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    device: Device | None = None,
    splits: Place | None = None,
    weights: Place | None = None,
    framework: Framework | None = None,
    cut: str | None = None,
    allow_code: bool | None = None,
    factory: str | None = None,
    adapt: str | None = None,
    fit: Fit | None = None,
    class_weights: ByClass | None = None,
    columns: str | None = None,
    max_pixels: int | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    report: Switch | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Run: ...


@overload
def train(
    data: Place | None = None,
    *,
    backbone: str | None = None,
    out: Place | None = None,
    quality: Quality | None = None,
    time_limit: str | float | None = None,
    seed: int | None = None,
    config: Place | None = None,
    dry_run: Literal[True],
    head: str | None = None,
    unfreeze: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    device: Device | None = None,
    splits: Place | None = None,
    weights: Place | None = None,
    framework: Framework | None = None,
    cut: str | None = None,
    allow_code: bool | None = None,
    factory: str | None = None,
    adapt: str | None = None,
    fit: Fit | None = None,
    class_weights: ByClass | None = None,
    columns: str | None = None,
    max_pixels: int | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    report: Switch | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Plan: ...


def train(
    data: Place | None = None,
    *,
    backbone: str | None = None,
    out: Place | None = None,
    quality: Quality | None = None,
    time_limit: str | float | None = None,
    seed: int | None = None,
    config: Place | None = None,
    dry_run: bool = False,
    head: str | None = None,
    unfreeze: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    device: Device | None = None,
    splits: Place | None = None,
    weights: Place | None = None,
    framework: Framework | None = None,
    cut: str | None = None,
    allow_code: bool | None = None,
    factory: str | None = None,
    adapt: str | None = None,
    fit: Fit | None = None,
    class_weights: ByClass | None = None,
    columns: str | None = None,
    max_pixels: int | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    report: Switch | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Run | Plan:
    """Train a model on a folder of labelled photos, tune it and measure it on photos that it has never seen.

    What is not given comes from the config file, and where that is silent too, is the default named here.

    Args:
        data: Folder with one folder of photos a class, or with train, validation and test folders of such; or a zip
            or tar of one, or a table of paths and labels: CSV, TSV, JSON Lines or Parquet.
        backbone: Pre-trained network to start from; auto ranks those on this machine. Default:
            bundled/efficientnet_lite0.
        out: Run folder to make; it must not exist yet. Default: a new folder under runs/.
        quality: fast solves a linear head, balanced also tunes the last groups, best tunes all. Default: balanced.
        time_limit: Stop tuning after so long: 90s, 10m, 1h30m, or seconds. Default: no limit.
        seed: Number that decides splits, order and augmentation. Default: 0.
        config: TOML file with any of these settings; a run's own config.toml will do.
        dry_run: Only say what would be done and how long it would take here; nothing is trained, no run is made.
        head: New layers, such as "flatten, dense(1024, relu), dropout(0.5)". Default: linear, solved exactly.
        unfreeze: Number of the backbone's last groups to tune; 0 tunes none. Default: by quality.
        epochs: Passes over the training photos in each stage of tuning. Default: by quality.
        lr: Learning rate of the head while tuning; deeper groups move slower. Default: by quality.
        batch_size: Photos a step. Default: by quality.
        size: Side of the square that enters the network, in pixels. Default: the backbone's own.
        device: Where to compute; auto takes the fastest there is. Default: auto.
        splits: A splits.csv of an earlier run, to use its splits again. Default: new splits from the seed.
        weights: File with the backbone's weights, or none to train from scratch. Default: those its source knows.
        framework: Engine to train with; a Keras backbone takes tensorflow or jax. Default: what is installed.
        cut: Layer of your own network that gives the features. Default: the one before its last layers.
        allow_code: Load a backbone file that holds code, which then runs; only for files you trust. Default: refused.
        factory: Makes your own network: FILE.py:FUNCTION or MODULE:FUNCTION, for weights in the backbone file/PATH.
        adapt: lora tunes small additions to a transformer's layers instead of the layers; lora:16 sets their rank.
        fit: Bring photos to a square by crop, pad or squash; best cross-validates. Default: the backbone's own way.
        class_weights: balanced counts each class alike; or a list such as ants=1,bees=3, or a CSV or JSON file of class
            and weight. Default: none.
        columns: Columns of a table, such as path=photo,label=species,group=patient. Default: by their names.
        max_pixels: Refuse photos of more pixels. Default: 178956970.
        precision: Of the frozen part: fp32, bf16, int8 or auto, the fastest that agrees with fp32. Default: auto.
        workers: Threads that read, decode and compute. Default: found by measuring.
        report: Write the report at the end, on or off; headstart report RUN makes it later. Default: on.
        on_event: Called with each event while the work goes on.

    Returns:
        The finished run, or with `dry_run` the plan.

    Raises:
        HeadstartError: the data, a setting or the backbone cannot be used, or training diverged.
    """
    settings = Settings.resolve(
        Path(config) if config is not None else None,
        data=_text(data),
        backbone=backbone,
        out=_text(out),
        quality=quality,
        time_limit=time_limit,
        seed=seed,
        head=head,
        unfreeze=unfreeze,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        size=size,
        device=device,
        splits=_text(splits),
        weights=_text(weights),
        framework=framework,
        cut=cut,
        allow_code=allow_code,
        factory=factory,
        adapt=adapt,
        fit=fit,
        class_weights=_by_class(class_weights),
        columns=columns,
        max_pixels=max_pixels,
        precision=precision,
        workers=workers,
        report=report,
    )
    if dry_run:
        from headstart.dry_run import plan

        return outcome(plan(settings), on_event)
    from headstart.conductor import train as work

    return outcome(work(settings), on_event)


def resume(run: Place, *, factory: str | None = None, on_event: Callable[[Event], None] | None = None) -> Run:
    """Continue an interrupted run; it ends at the same bits as if it had never stopped.

    Args:
        run: Run folder of the interrupted training.
        factory: The function that made your own network, where the run began with one; its code is run again.
        on_event: Called with each event while the work goes on.

    Returns:
        The finished run.

    Raises:
        BadRun: there is no such run, or it cannot be continued.
    """
    from headstart.conductor import resume as work

    return outcome(work(Path(run), factory=factory), on_event)


def predict(
    run: Place,
    paths: Sequence[Place] | Place,
    *,
    priors: ByClass | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Prediction]:
    """Name what photos show, with a probability for each class.

    Args:
        run: Run folder of a finished training, or an exported bundle.
        paths: Photos, folders or archives of photos, and tables (.csv, .jsonl, .parquet) that list photos.
        priors: How frequent the classes are among these photos: uniform, train (as when training), estimate (found from
            the photos), a list such as ants=0.9,bees=0.1, or a CSV or JSON file. Default: as the model learnt it.
        on_event: Called with each event while the work goes on.

    Returns:
        One prediction a photo, in the order of the paths; a photo that cannot be read has its reason instead.

    Raises:
        BadRun: there is no such run, or it is not finished.
        BadBundle: the bundle was changed, or nothing here can run it.
        BadData: a path does not exist, or no photo is there.
    """
    from headstart.predicting import predict as work

    several = [paths] if isinstance(paths, str | PathLike) else list(paths)
    return outcome(work(Path(run), [Path(path) for path in several], priors=priors), on_event)


def explain(
    run: Place,
    photo: Place,
    *,
    label: str | None = None,
    out: Place | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Explanation:
    """Show which places of a photo speak for an answer, as a picture with a heat map.

    Args:
        run: Run folder of a finished training, or an exported bundle.
        photo: The photo.
        label: Class to explain. Default: the answer.
        out: Picture to write. Default: the photo's name with -explained.png, in the current folder.
        on_event: Called with each event while the work goes on.

    Returns:
        The answer, the heat of each place, the method that found it, and where the picture lies.

    Raises:
        BadRun: there is no such run, or it is not finished.
        BadData: the photo does not exist or cannot be read.
        BadSetting: the model has no such class.
    """
    from headstart.explaining.explanation import explain as work

    return outcome(work(Path(run), Path(photo), label=label, out=Path(out) if out is not None else None), on_event)


def report(run: Place, *, out: Place | None = None, on_event: Callable[[Event], None] | None = None) -> Report:
    """Write what a manager and an engineer want to know about a run: one HTML page, its facts as JSON, a model card.

    Args:
        run: Run folder of a finished training.
        out: Folder to write report.html, report.json and model-card.md into. Default: the run's own.
        on_event: Called with each event while the work goes on.

    Returns:
        Where the three files lie.

    Raises:
        BadRun: there is no such run, or it is not finished.
    """
    from headstart.report.making import report as work

    return outcome(work(Path(run), out=Path(out) if out is not None else None), on_event)


def export(
    run: Place,
    *,
    to: str,
    out: Place | None = None,
    precision: ExportPrecision = "fp32",
    on_event: Callable[[Event], None] | None = None,
) -> Bundle:
    """Make a bundle that answers without headstart, compare its answers with the run's, and keep it if they agree.

    Args:
        run: Run folder of a finished training.
        to: Format: onnx, openvino, torch, keras, saved_model or tflite.
        out: Folder to make; it must not exist yet. Default: a new folder under exports/.
        precision: Of the graph: fp32, fp16 or int8, where the format has it. Default: fp32.
        on_event: Called with each event while the work goes on.

    Returns:
        The bundle.

    Raises:
        BadRun: there is no such run, or it is not finished.
        BadExport: the format cannot take the model, a library is missing, or the answers differ.
    """
    from headstart.exporting.exporting import export as work

    asked = work(Path(run), to=to, out=Path(out) if out is not None else None, precision=precision)
    return outcome(asked, on_event)


def serve(
    run: Place,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int | None = None,
    token: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> None:
    """Answer over HTTP, with a page to drop a photo on, until it is told to stop.

    Args:
        run: Exported bundle, or run folder of a finished training, which is exported first.
        host: Address to listen on. Another than this machine's own needs a token. Default: 127.0.0.1.
        port: Port to listen on; 0 takes one that is free. Default: 8000.
        workers: Threads that decode and compute. Default: the cores.
        token: Secret that every request must carry. Default: none, or the environment's HEADSTART_TOKEN.
        on_event: Called with each event, in a thread of its own: a slow one does not hold the service up.

    Raises:
        BadRun: there is no such run, or it is not finished.
        BadBundle: the bundle was changed, or nothing here can run it.
        BadServer: the address cannot be used, or is open to others without a token.
    """
    from headstart.serving.service import serve as work
    from headstart.serving.telling import telling

    with telling(on_event) as told:
        outcome(work(Path(run), host=host, port=port, workers=workers, token=token), told)


def evaluate(
    run: Place,
    data: Place,
    *,
    priors: ByClass | None = None,
    columns: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Evaluation:
    """Measure a finished model on other labelled photos; classes are matched by name.

    Args:
        run: Run folder of a finished training.
        data: Folder of class folders, table or archive, as for train; the model should not have seen its photos.
        priors: How frequent the classes are among these photos: uniform, train (as when training), estimate (found from
            the photos), a list such as ants=0.9,bees=0.1, or a CSV or JSON file. Default: as the model learnt it.
        columns: Columns of a table, such as path=photo,label=species. Default: by their names.
        on_event: Called with each event while the work goes on.

    Returns:
        Accuracy with its 95 % interval and further figures.

    Raises:
        BadRun: there is no such run, or it is not finished.
        BadData: the folder cannot be used, or has a class that the model does not know.
    """
    from headstart.evaluating import evaluate as work

    return outcome(work(Path(run), Path(data), priors=priors, columns=columns), on_event)


def audit(
    data: Place,
    *,
    splits: Place | None = None,
    columns: str | None = None,
    backbone: str | None = None,
    seed: int = 0,
    max_pixels: int | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Audit:
    """Look at every photo and say what is wrong, before anything is trained: near-duplicates, leaks, bad files.

    Args:
        data: Whatever train takes: a folder with one folder of photos a class, an archive or a table.
        splits: A splits.csv of an earlier run or of your own, to check it for leaks. Default: those that train takes.
        columns: Columns of a table, such as path=photo,label=species,group=patient. Default: by their names.
        backbone: Also look for photos that show a part of another, by this network's features. Default: it is not done.
        seed: Another seed, other splits.
        max_pixels: Skip photos of more pixels. Default: 178956970.
        on_event: Called with each event while the work goes on.

    Returns:
        Counts, skipped files with reasons, equal and nearly equal photos, leaks, conflicts, sizes, blur and light.

    Raises:
        BadData: there is nothing that can be read.
    """
    from headstart.auditing import audit as work

    source = Path(data) if data else data
    asked = work(source, seed=seed, splits=splits, columns=columns, backbone=backbone, max_pixels=max_pixels)
    return outcome(asked, on_event)


def rank(
    data: Place,
    *,
    backbones: Names | None = None,
    weights: ByName | None = None,
    time_limit: str | float | None = None,
    seed: int = 0,
    splits: Place | None = None,
    columns: str | None = None,
    size: int | None = None,
    device: Device | None = None,
    class_weights: ByClass | None = None,
    max_pixels: int | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Ranking:
    """Find out which backbone suits labelled photos: all by a few photos, the promising ones by ever more of them.

    Each is judged by the exact linear head on its features, cross-validated on the training photos. Validation and test
    photos are not looked at. What is computed is kept: train finds it when its turn comes.

    Args:
        data: Whatever train takes: a folder with one folder of photos a class, an archive or a table.
        backbones: Names with commas between them, of any source. Default: all whose weights are on this machine.
        weights: NAME=FILE gives a backbone weights of your own and ranks it too; may be given several times. Default:
            those that its source knows.
        time_limit: Stop after so long: 90s, 10m, 1h30m, or seconds. Default: no limit.
        seed: Number that decides the split, as for train.
        splits: A splits.csv of an earlier run, to use its splits again. Default: new splits from the seed.
        columns: Columns of a table, such as path=photo,label=species,group=patient. Default: by their names.
        size: Side of the square that enters the networks, in pixels. Default: each backbone's own.
        device: Where to compute; auto takes the fastest there is. Default: auto.
        class_weights: balanced counts each class alike; or a list such as ants=1,bees=3, or a CSV or JSON file of class
            and weight. Default: none.
        max_pixels: Skip photos of more pixels. Default: 178956970.
        precision: Of the frozen part: fp32, bf16, int8 or auto, the fastest that agrees with fp32. Default: auto.
        workers: Threads that read, decode and compute. Default: found by measuring.
        on_event: Called with each event while the work goes on.

    Returns:
        A line for each backbone with its accuracy, its paired difference to the best, its cost, and a verdict.

    Raises:
        HeadstartError: the data, a setting or a backbone that was named cannot be used.
    """
    settings = Settings.resolve(
        data=_text(data),
        time_limit=time_limit,
        seed=seed,
        splits=_text(splits),
        columns=columns,
        size=size,
        device=device,
        class_weights=_by_class(class_weights),
        max_pixels=max_pixels,
        precision=precision,
        workers=workers,
    )
    from headstart.ranking.halving import rank as work

    return outcome(work(settings, backbones, weights), on_event)


def backbones(filter: str | None = None) -> list[Entry]:
    """List the pre-trained networks that can be used.

    Args:
        filter: Part of a name. Default: all are listed.

    Returns:
        One entry a backbone, by name.
    """
    from headstart.backbones.loading import list_backbones

    return list_backbones(filter)


def cache(*, clear: bool = False) -> CacheUsage:
    """Say where computed features are kept and how much room they take; they only save time and can be deleted.

    Converted networks, unpacked archives and pictures of data sets without files lie there too.

    Args:
        clear: Delete it all. What a running training still uses is computed again.

    Returns:
        Place and size, after clearing where that was asked for.
    """
    from headstart import caching

    if clear:
        caching.clear()
    return caching.usage()


def _by_class(given: ByClass | None) -> str | None:
    return json.dumps(dict(given), default=float) if isinstance(given, Mapping) else _text(given)


def _text(place: Place | None) -> str | None:
    return None if place is None else fspath(place)
