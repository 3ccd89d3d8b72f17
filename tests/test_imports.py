"""What imports what: the layers of the design, and that importing headstart stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "headstart"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))

# Who alone may import a library, and what for.
OWNERS = {
    "torch": ("networks/", "backbones/", "runtimes/", "exporting/formats/"),
    "torchvision": ("networks/", "backbones/"),
    "transformers": ("networks/", "backbones/"),
    "keras": ("networks/", "backbones/", "runtimes/", "exporting/formats/"),
    "tensorflow": ("networks/", "backbones/", "runtimes/", "exporting/formats/"),
    "jax": ("networks/", "backbones/"),
    "openvino": ("runtimes/", "exporting/formats/"),
    "nncf": ("runtimes/", "exporting/formats/"),
    "accelerate": ("networks/",),
    "onnx": ("exporting/formats/",),
    "onnxruntime": ("exporting/formats/",),
    "ai_edge_litert": ("exporting/formats/",),
    "PIL": ("modalities/",),
    "matplotlib": ("report/",),
    "jinja2": ("report/",),
    "fastapi": ("serving/",),
    "starlette": ("serving/",),
    "uvicorn": ("serving/",),
    "prometheus_client": ("serving/",),
    "python_multipart": ("serving/",),
    "pydantic": ("serving/",),
    "cyclopts": ("cli.py",),
    "rich": ("display.py", "cli.py"),
}
# A module may use those of its own rank and below.
RANKS = [
    (
        "errors.py",
        "events.py",
        "registry.py",
        "heads.py",
        "novelty.py",
        "novelty_file.py",
        "writing.py",
        "plain_files.py",
        "printable.py",
        "run_files.py",
        "minimise.py",
        "logistic.py",
        "shards.py",
        "machine.py",
        "outcome.py",
        "amounts.py",
        "aligned.py",
    ),
    ("config.py", "places.py", "store.py", "caching.py", "modalities/"),
    ("data/", "networks/"),
    ("backbones/", "evaluation/", "runtimes/"),
    (
        "features.py",
        "choosing.py",
        "pipeline.py",
        "prediction.py",
        "workers.py",
        "probe.py",
        "priors.py",
        "weighting.py",
        "out_of_fold.py",
    ),
    ("training/", "planning.py"),
    ("runs.py",),
    ("answering.py", "model.py", "session.py", "auditing.py"),
    ("explaining/", "exporting/", "predictor.py", "predicting.py"),
    ("report/", "serving/"),
    ("abstaining.py", "judging.py", "tuning.py", "framing.py", "preparing.py", "estimators/"),
    ("pace.py", "ranking/"),
    ("starting.py",),
    ("conductor.py", "dry_run.py", "evaluating.py"),
    ("api.py",),
    ("display.py", "output.py", "audit_text.py", "rank_text.py", "plan_text.py"),
    ("cli.py",),
    ("__main__.py",),
]
LIGHT = ("import headstart", "import headstart.cli", "import headstart; dir(headstart)", "import headstart.api")
HEAVY = ("torch", "transformers", "keras", "tensorflow", "jax", "numpy", "PIL", "sklearn", "scipy", "safetensors")


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Every imported module that is needed when the code runs, in full; not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((name.name, node) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            inside = module == "headstart"
            yield from ((f"headstart.{name.name}" if inside else module, node) for name in node.names)
        yield from imports(node)


def trespasses(module: str, code: str) -> list[str]:
    """The imports in this module's code that break a rule."""
    found = []
    for name, node in imports(ast.parse(code)):
        owners = OWNERS.get(name.partition(".")[0])
        if owners is not None and not module.startswith(owners):
            found.append(f"{module}:{node.lineno} imports {name}")
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(f"{module}:{node.lineno} imports by a relative name")
        if name.startswith("headstart.") and module != "__init__.py":
            target = name.removeprefix("headstart.").replace(".", "/")
            if rank(f"{target}.py") > rank(module):
                found.append(f"{module}:{node.lineno} imports {name}, which stands above it")
    return found


def rank(module: str) -> int:
    """The place of a module in the flow."""
    fits = [place for place, family in enumerate(RANKS) for name in family if _belongs(module, name)]
    assert fits, f"{module} has no place in RANKS: give it one"
    return fits[0]


def _belongs(module: str, name: str) -> bool:
    return module.startswith(name) or module == name.rstrip("/") + ".py"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_below_it(module: str) -> None:
    assert trespasses(module, (SOURCE / module).read_text(encoding="utf-8")) == []


def test_the_page_of_the_structure_names_every_place() -> None:
    page = (SOURCE.parents[1] / "docs" / "structure.md").read_text(encoding="utf-8")
    places = {f"{folder}/" if inside else folder for folder, inside, _ in (module.partition("/") for module in MODULES)}
    assert {place for place in places if f"`{place}" not in page} <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("training/loop.py", "import torch"),
        ("training/loop.py", "def run():\n    from torch import nn"),
        ("features.py", "import PIL.Image"),
        ("data/folder.py", "from headstart.conductor import train"),
        ("data/folder.py", "from headstart import conductor"),
        ("heads.py", "from .training import loop"),
        ("api.py", "import rich.progress"),
    ],
)
def test_a_trespass_is_found(module: str, code: str) -> None:
    assert trespasses(module, code)


@pytest.mark.parametrize("code", LIGHT)
def test_importing_loads_no_framework_and_no_arrays(code: str) -> None:
    check = f"import sys; {code}; print(sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_framework_and_no_arrays() -> None:
    check = (
        "import sys; from headstart import cli; cli.run(['train', '--help'])\n"
        f"print(sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_nothing_but_the_command_line_prints() -> None:
    for module in MODULES:
        tree = ast.parse((SOURCE / module).read_text(encoding="utf-8"))
        prints = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
        assert not prints or module == "cli.py", module


def test_every_name_of_the_package_is_there() -> None:
    check = "import headstart; [getattr(headstart, name) for name in headstart.__all__]; headstart.__version__"
    subprocess.run([sys.executable, "-c", check], check=True)
