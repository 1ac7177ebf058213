"""The folder of a reader: a copy of the checkout, and a shell whose variables stay."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from docs.blocks import ROOT

SECONDS = 180.0
COPIED = (
    *("Makefile", "pyproject.toml", "constraints.txt", "README.md"),
    *("charts", "crds", "examples", "images"),
)
STATE = ".shell-variables"


class Failed(AssertionError):
    """A command of a page did not do what a reader may expect."""


class Workplace:
    """Runs commands one after the other, as one shell would, with a deadline for each."""

    def __init__(self, folder: Path, programs: list[Path], kubeconfig: Path) -> None:
        self.folder = folder
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, folder / name)
        environment = Path(sys.prefix)
        (folder / ".venv").symlink_to(environment)
        for name in ("pyproject.toml", "constraints.txt"):
            os.utime(folder / name, (0, 0))  # make must not set up the environment of the tests
        assert (environment / ".ready").exists(), "run make setup first"
        path = [*map(str, programs), str(environment / "bin"), os.environ["PATH"]]
        self._environment = os.environ | {
            "PATH": os.pathsep.join(path),
            "KUBECONFIG": str(kubeconfig),
            "OMP_NUM_THREADS": "1",  # as make has it: more would spin against each other
            "KUBECACHEDIR": str(folder / ".kube-cache"),
            "HELM_CACHE_HOME": str(folder / ".helm-cache"),
        }

    def run(self, command: str, meanwhile: Callable[[], None] | None = None) -> str:
        """Run a command to its end; what it prints. Raises Failed."""
        process = self._start(command)
        try:
            if meanwhile is not None:
                meanwhile()
            output, _ = process.communicate(timeout=SECONDS)
        except BaseException as error:
            self._end(process, signal.SIGKILL)
            said = process.communicate()[0]
            raise Failed(f"{command}: {type(error).__name__}: {error}\n{said}") from error
        if process.returncode:
            raise Failed(f"{command}: exit code {process.returncode}\n{output}")
        return output

    def run_python(self, text: str, meanwhile: Callable[[], None] | None = None) -> str:
        """Run Python code to its end."""
        return self.run(f"python -c {shlex.quote(text)}", meanwhile)

    def follow(self, command: str, word: str) -> None:
        """Run a command that does not end by itself until it shows a word, then press Ctrl-C."""
        process = self._start(command)
        guard = threading.Timer(SECONDS, lambda: self._end(process, signal.SIGKILL))
        guard.start()
        try:
            assert process.stdout is not None
            seen: list[str] = []
            for line in process.stdout:
                seen.append(line)
                if word in line:
                    break
            else:
                raise Failed(f"{command}: ended without {word!r}\n{''.join(seen)}")
            self._end(process, signal.SIGINT)
            process.communicate()
        finally:
            self._end(process, signal.SIGKILL)
            guard.cancel()
            guard.join()

    def _start(self, command: str) -> subprocess.Popen[str]:
        state = shlex.quote(str(self.folder / STATE))
        script = (
            f"test ! -e {state} || . {state}\n{command}\ncode=$?\nexport -p > {state}\nexit $code\n"
        )
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _end(self, process: subprocess.Popen[str], number: int) -> None:
        """Signal the command and all that it started."""
        if process.poll() is None:
            os.killpg(process.pid, number)
