"""The tests with every CPython on this machine, and the checks, each in an environment of its own.

``make`` runs the same commands in the one environment of a checkout; this is for looking further: ``nox`` or ``make matrix``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

PROJECT = nox.project.load_toml("pyproject.toml")
NAME = re.compile(r"python(3\.\d+t?)(\.exe)?")


def folders() -> list[str]:
    """Return where interpreters lie: what pyenv has installed, then PATH."""
    found = []
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        # The folders themselves, because pyenv's shims answer for every version and run only the chosen ones.
        found = [str(folder) for folder in sorted(Path(root).glob("versions/*/bin"))] if root else []
    return found + os.environ.get("PATH", "").split(os.pathsep)


def version_of(program: Path) -> str | None:
    """Return ``3.13`` or ``3.13t`` for a CPython that runs and is new enough."""
    question = (
        "import sys, sysconfig; v = sys.version_info;"
        "print('%d.%d%s' % (*v[:2], 't' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''))"
        " if v >= (3, 10) and sys.implementation.name == 'cpython' else None"
    )
    try:
        answer = subprocess.run([program, "-c", question], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def interpreters() -> dict[str, str]:
    """Return the folder of each CPython found, by version, oldest first."""
    found: dict[str, str] = {}
    for folder in folders():
        for program in sorted(Path(folder).glob("python3.*")) if Path(folder).is_dir() else []:
            match = NAME.fullmatch(program.name)
            if match and match[1] not in found and version_of(program) == match[1]:
                found[match[1]] = folder
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found.setdefault(own, str(Path(sys.executable).parent))
    return dict(sorted(found.items(), key=lambda item: (int(item[0].rstrip("t").split(".")[1]), item[0])))


INTERPRETERS = interpreters()
# So that their usual names mean these programs, whichever backend looks for them.
os.environ["PATH"] = os.pathsep.join([*dict.fromkeys(INTERPRETERS.values()), os.environ.get("PATH", "")])


def install(session: nox.Session, group: str) -> None:
    session.install("--editable", ".", *nox.project.dependency_groups(PROJECT, group))


@nox.session(python=list(INTERPRETERS))
def tests(session: nox.Session) -> None:
    """Run the tests, apart from the slow ones, or what is named after ``--``."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-n", "auto", *(session.posargs or ["-m", "not slow"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Look at format, style and house rules."""
    install(session, "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("python", "-m", "pytest", "-q", "tests/test_tidy.py")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, with two checkers."""
    install(session, "dev")
    session.run("mypy")
    session.run("pyright", "--pythonpath", shutil.which("python", path=session.bin) or "python")


@nox.session
def cover(session: nox.Session) -> None:
    """Run the tests and ask for every line and branch."""
    install(session, "test")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-n", "auto", "-m", "not slow")
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
