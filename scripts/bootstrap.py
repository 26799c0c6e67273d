"""Make ``.venv`` in the clone, install the project into it, and run a command there.

Used by the shell scripts beside it, with any Python 3.11 or newer and only its standard library. A stamp in the
virtual environment records what was installed, so a second start costs a file read. Several starts at once take
turns behind a file lock. Progress goes to standard error: standard output belongs to the command.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"


def describe_wanted_installation(extra: str) -> str:
    """Return a digest that changes when the installation would."""
    digest = hashlib.sha256()
    for part in (extra, sys.version, str(ROOT)):
        digest.update(part.encode() + b"\0")
    for name in ("pyproject.toml", "setup.cfg"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def say(text: str) -> None:
    """Report progress on standard error."""
    print(f"callboard: {text}", file=sys.stderr, flush=True)


def make_venv() -> None:
    """Create the virtual environment, or say which package of the system is missing for it.

    An environment whose interpreter is gone (its Python was upgraded, the folder was moved) is made anew.
    """
    clear = ["--clear"] if VENV.exists() else []
    done = subprocess.run([sys.executable, "-m", "venv", *clear, str(VENV)], stdout=sys.stderr, check=False)
    if done.returncode != 0:
        say(f"{sys.executable} cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv")
        raise SystemExit(1)


def is_usable(python: Path) -> bool:
    """Tell whether the environment's interpreter starts and is the one that runs this script."""
    if not python.exists():
        return False
    asked = subprocess.run(
        [str(python), "-c", "import sys; print(sys.version, end='')"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.returncode == 0 and asked.stdout == sys.version


def install(extra: str) -> None:
    """Install the project with ``extra`` into the virtual environment unless the stamp says that it is there."""
    stamp = VENV / f"callboard-{extra or 'base'}.stamp"
    wanted = describe_wanted_installation(extra)
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted and VENV_PYTHON.exists():
            return
        if not is_usable(VENV_PYTHON):
            say("making .venv")
            make_venv()
        target = str(ROOT) + (f"[{extra}]" if extra else "")
        say("installing the project and its libraries into .venv (once; a minute or so)")
        done = subprocess.run(
            [str(VENV_PYTHON), "-m", "pip", "install", "--quiet", "--use-pep517", "--editable", target],
            stdout=sys.stderr,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"},
            check=False,
        )
        if done.returncode != 0:
            say("pip could not install the project; its message is above")
            raise SystemExit(1)
        stamp.write_text(wanted)


def main() -> None:
    """``bootstrap.py EXTRA COMMAND [ARG ...]``: install, then become COMMAND from the environment's ``bin``."""
    extra, command, *arguments = sys.argv[1:]
    try:
        install(extra)
    except OSError as error:
        say(f"cannot write into {ROOT}: {error}; run from a clone that you own")
        raise SystemExit(1) from error
    path = VENV / "bin"
    environment = {**os.environ, "VIRTUAL_ENV": str(VENV), "PATH": f"{path}{os.pathsep}{os.environ.get('PATH', '')}"}
    os.execve(  # noqa: S606 (the point of it)
        path / command, [command, *arguments], environment
    )


if __name__ == "__main__":
    main()
