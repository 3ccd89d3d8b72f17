"""Have each opponent run in an environment of its own, made from its own packages, and never beside headstart."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OPPONENTS = Path(__file__).parent / "opponents"
PLACE = REPOSITORY / "benchmarks" / ".environments"  # ignored by git; delete it to have them made anew
OPERATORS = REPOSITORY / "tests" / "conformance" / "operators.py"
# torchvision as the package index has it is compiled for PyTorch with CUDA. Beside a PyTorch for processors alone it
# can be imported only after two of its operators were declared, which nothing here calls; where it fits, that is left.
DECLARED = "\n\ndeclare_operators()\n"


def python_of(name: str) -> Path:
    """The Python of the environment of `opponents/NAME.txt`, which is made where it is missing or out of date."""
    asked = OPPONENTS / f"{name}.txt"
    python, stamp = PLACE / name / "bin" / "python", PLACE / name / "asked"
    wanted = hashlib.sha256(asked.read_bytes() + OPERATORS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    print(f"making {PLACE / name}: minutes, once", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE / name], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", asked], check=True)
    say = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", say], check=True, capture_output=True, text=True).stdout.strip())
    (packages / "sitecustomize.py").write_text(OPERATORS.read_text() + DECLARED)
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    for path in sorted(OPPONENTS.glob("*.txt")):
        print(python_of(path.stem))
