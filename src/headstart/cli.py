"""Run a verb from the command line: parse, call, print. Made from the functions in `headstart.api`, so both agree.

Results go to stdout, everything else to stderr. Exit codes: 0; 1 for a refusal or a failure; 2 for wrong usage;
130 when interrupted.
"""

from __future__ import annotations

import atexit
import inspect
import io
import json as json_text
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, NoReturn, TextIO, get_type_hints

from cyclopts import App, CycloptsError, Parameter

from headstart import api, output
from headstart.audit_text import audit_text
from headstart.display import Display
from headstart.errors import DiskFull, HeadstartError
from headstart.printable import printable
from headstart.rank_text import rank_text
from headstart.serving.telling import anybody_stuck

Format = Literal["table", "csv", "json"]
FAILED, USAGE, INTERRUPTED = 1, 2, 130

# What a command has on top of its function.
_JSON = inspect.Parameter(
    "json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, Parameter(help="Print the result, or the error, as JSON for programs.")],
)
_FORMAT = inspect.Parameter(
    "format",
    inspect.Parameter.KEYWORD_ONLY,
    default="table",
    annotation=Annotated[Format, Parameter(help="How to print predictions. Default: table.")],
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first speaks for all
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files can be any bytes
    code = run(sys.argv[1:] if arguments is None else arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Now and then a thread of the process group outlives it and aborts the interpreter's own clearing up.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; gives the exit code."""
    as_json = "--json" in arguments
    try:
        app = application()
        return app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value") or 0
    except CycloptsError as problem:
        verb = next((f" {word}" for word in arguments[:1] if word in _VERBS), "")
        _refuse(str(problem), f"see headstart{verb} --help", as_json)
        return USAGE
    except HeadstartError as problem:
        _refuse(problem.what, problem.fix, as_json)
        _trace()
    except KeyboardInterrupt:
        _tell("interrupted")
        return INTERRUPTED
    except Exception as problem:  # noqa: BLE001  the last door: nobody meets a traceback unasked
        what = f"headstart failed unexpectedly: {type(problem).__name__}: {problem}"
        _refuse(what, "please report it with what HEADSTART_DEBUG=1 headstart ... prints", as_json)
        _trace()
    return FAILED


def application() -> App:
    """The whole command line: one command a verb."""
    app = App(
        name="headstart",
        help="Give a small labelled data set a pre-trained network's head start.",
        version=_version,
        default_parameter=Parameter(negative=(), show_default=False),
        help_format="plaintext",
        # Ours to handle: the way to resume is said then.
        suppress_keyboard_interrupt=False,
    )
    for place, (name, (verb, answer)) in enumerate(_VERBS.items()):
        app.command(_command(verb, answer), name=name, sort_key=place)
    return app


def _command(verb: Callable[..., Any], answer: Callable[[Any], str]) -> Callable[..., int]:
    """The function behind a command: as the verb, but told how to print, and showing events instead of taking them."""
    signature = inspect.signature(verb)
    watched = "on_event" in signature.parameters

    def command(*arguments: Any, json: bool = False, format: Format = "table", **options: Any) -> int:
        with Display(_stderr()) as display:
            try:
                result = verb(*arguments, **options, **({"on_event": display.show} if watched else {}))
                if anybody_stuck():  # in a pipe that nobody reads, or a paused terminal: Python would wait for its lock
                    os._exit(0)
            except KeyboardInterrupt:
                display.close()
                way_on = f"; go on with: headstart resume {shlex.quote(display.run)}" if display.run else ""
                _tell(f"interrupted{way_on}")
                return INTERRUPTED
        if result is None:  # serve: it has said all while it ran
            return 0
        writer = output.as_json if json or format == "json" else answer
        table = format == "csv" and not json
        text = (output.predictions_csv if table else writer)(result)
        # Into a file, a table goes to the letter: it is for programs.
        _print(text if table and sys.stdout is not None and not sys.stdout.isatty() else printable(text))
        return 0

    hints = _hints(verb)
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in signature.parameters.items()
        if name != "on_event"
    ]
    extra = [_FORMAT, _JSON] if verb is api.predict else [_JSON]
    command.__signature__ = inspect.Signature([*parameters, *extra])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*parameters, *extra]}
    command.__name__ = verb.__name__
    command.__doc__ = verb.__doc__
    return command


def _hints(verb: Callable[..., Any]) -> dict[str, Any]:
    """The types of the verb's parameters. Not of its result: to know that would load everything."""
    said = {name: hint for name, hint in verb.__annotations__.items() if name not in ("return", "on_event")}
    hints = get_type_hints(type("Hints", (), {"__annotations__": said, "__module__": verb.__module__}))
    # Mappings are for Python; a command line has a list or a file, and repeats an option.
    plain: dict[Any, Any] = {api.ByClass | None: str | None, api.Names | None: _SEVERAL, api.ByName | None: _SEVERAL}
    hints = {name: plain.get(hint, hint) for name, hint in hints.items()}
    return {
        name: Annotated[hint, Parameter(metavar=_METAVARS[hint])] if hint in _METAVARS else hint
        for name, hint in hints.items()
    }


_SEVERAL = list[str] | None
# How `--help` calls a value whose type would read badly there.
_METAVARS: dict[Any, str] = {
    api.Place | None: "PATH",
    str | float | None: "DURATION",
    str | None: "TEXT",
    _SEVERAL: "TEXT",
}


_VERBS: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {
    "train": (api.train, output.trained_text),
    "resume": (api.resume, output.trained_text),
    "predict": (api.predict, output.predictions_text),
    "evaluate": (api.evaluate, output.facts_text),
    "explain": (api.explain, output.explained_text),
    "report": (api.report, output.facts_text),
    "export": (api.export, output.exported_text),
    "serve": (api.serve, output.facts_text),
    "audit": (api.audit, audit_text),
    "rank": (api.rank, rank_text),
    "backbones": (api.backbones, output.backbones_text),
    "cache": (api.cache, output.cache_text),
}


def _version() -> str:
    from importlib.metadata import version

    return f"headstart {version('headstart')}"


def _refuse(what: str, fix: str, as_json: bool) -> None:
    _tell(f"error: {what}\nhint: {fix}")
    if as_json:
        with suppress(HeadstartError):  # it has been told already
            _print(json_text.dumps({"error": what, "hint": fix}))


def _trace() -> None:
    if os.environ.get("HEADSTART_DEBUG"):
        _tell(traceback.format_exc())


def _stderr() -> TextIO:
    return sys.stderr if sys.stderr is not None else io.StringIO()  # closed by the shell: 2>&-


def _tell(text: str) -> None:
    with suppress(OSError, ValueError):
        print(printable(text), file=_stderr(), flush=True)


def _print(text: str) -> None:
    """Write the answer to stdout. A reader that has gone (`| head`) has had enough, which is no failure."""
    try:
        print(text, flush=True)
    except OSError as problem:
        # What could not be written would be tried again, and complained about, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            raise DiskFull(
                f"the answer cannot be written to standard output: {problem.strerror}", fix="send it somewhere else"
            ) from problem
