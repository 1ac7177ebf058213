"""The command as a user has it: in a process of its own, with its exit codes, output and signals.

The roles are a small stand-in: a package of the worker's name, first in the path of modules.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from asyncrl import __version__
from asyncrl.backends.local import LocalRun
from asyncrl.cli import run
from asyncrl.cli.main import main

FAKE_ROLE = Path(__file__).with_name("fake_role.py")
REPOSITORY = Path(__file__).parents[3]
MANIFEST = """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: cartpole}
spec:
  workload:
    gymnasium: {id: CartPole-v1}
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """A folder with a package `asyncrl_worker` whose roles are the stand-in."""
    root = tmp_path / "modules"
    for role, package in [
        ("actor", "actor"),
        ("learner", "learner"),
        ("parameter-server", "parameter_server"),
    ]:
        folder = root / "asyncrl_worker" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "main.py").write_text(
            f"import runpy, sys\nsys.argv[1:1] = ['--role', {role!r}]\n"
            f"runpy.run_path({str(FAKE_ROLE)!r}, run_name='__main__')\n"
        )
    # The report needs the rest of the real package.
    (root / "asyncrl_worker" / "__init__.py").write_text(
        "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
    )
    return root


class Command:
    """Runs `asyncrl` in a folder of its own."""

    def __init__(self, folder: Path, modules: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "job.yaml").write_text(MANIFEST)
        roots = [modules, REPOSITORY / "crds", REPOSITORY / "client"]
        self.environment = {**os.environ, "PYTHONPATH": ":".join(map(str, roots))}
        self.environment.pop("FORCE_COLOR", None)

    def arguments(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "asyncrl.cli.main", *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.arguments(*words),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )


@pytest.fixture
def asyncrl(tmp_path: Path, worker: Path) -> Command:
    return Command(tmp_path / "here", worker)


def behaviour(role: str, **what: object) -> tuple[str, str]:
    value = json.dumps([{"name": "BEHAVIOUR", "value": json.dumps([what])}])
    return "--set", f"spec.{role}.env={value}"


def when_it_says(process: subprocess.Popen[str], word: str) -> str:
    """Read the output until the word comes."""
    assert process.stdout is not None
    read: list[str] = []
    guard = threading.Timer(30, process.kill)
    guard.start()
    for line in process.stdout:
        read.append(line)
        if word in line:
            break
    guard.cancel()
    assert word in "".join(read)
    return "".join(read)


@pytest.fixture
def running(asyncrl: Command) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = asyncrl.start(*words)
        started.append(process)
        when_it_says(process, "Running")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_help_and_version_import_nothing_heavy(asyncrl: Command) -> None:
    result = asyncrl("--version")
    assert (result.returncode, result.stdout) == (0, f"asyncrl {__version__}\n")
    text = asyncrl("--help").stdout
    for word in (
        "run",
        "validate",
        "explain",
        "status",
        "logs",
        "plot",
        "completion",
        "130 interrupted",
    ):
        assert word in text
    program = (
        "import sys; sys.argv = ['asyncrl', '--help']\n"
        "from asyncrl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'yaml', 'rich', 'numpy', 'torch'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "command", ["run", "validate", "explain", "status", "logs", "plot", "completion"]
)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert f"{command} [OPTIONS]" in result.stdout


def test_the_client_needs_no_torch_and_no_numpy() -> None:
    program = """
import sys, pkgutil, importlib
blocked = ("torch", "numpy", "gymnasium", "grpc", "kubernetes")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import asyncrl
names = [m.name for m in pkgutil.walk_packages(asyncrl.__path__, "asyncrl.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    roots = ":".join(str(REPOSITORY / root) for root in ("crds", "worker", "client"))
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 15


def test_the_version_is_that_of_the_distribution() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project.get("version", __version__) == __version__


def test_validate_shows_what_follows_and_what_resolves(asyncrl: Command) -> None:
    result = asyncrl("validate", "job.yaml")
    assert result.returncode == 0
    assert "job.yaml: valid, job cartpole" in result.stdout
    assert "= 1,024 environment steps" in result.stdout
    assert "at most 4 versions" in result.stdout
    resolved = asyncrl("validate", "job.yaml", "-o", "yaml", "--set", "spec.staleness.max=0")
    assert "# staleness " in resolved.stdout
    assert "0: synchronous training" in resolved.stdout
    document = yaml.safe_load(resolved.stdout)
    assert document["spec"]["staleness"]["max"] == 0
    assert document["spec"]["actors"]["replicas"] == 2
    as_json = asyncrl("validate", "job.yaml", "-o", "json", "--set", "spec.staleness.max=0")
    assert json.loads(as_json.stdout) == document


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--set", "spec.staleness.max=-1"), "error: spec.staleness.max: -1"),
        (("--set", "spec.stalenes.max=1"), "did you mean 'staleness'?"),
        (("--set", "spec.runPolicy.suspend=true"), "error: spec.runPolicy.suspend: is true"),
        (("--output", "job.yaml"), "is a file"),
        (("--resume",), "error: cartpole: no such run"),
        (("--output", "empty", "--resume"), "no run to resume here; leave out --resume"),
        (("--output", "."), "not empty; continue the run in it with --resume"),
        (("--nonsense",), "No such option"),
    ],
)
def test_wrong_use_is_code_2_and_one_line(
    words: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(MANIFEST)
    result = CliRunner().invoke(main, ["run", "job.yaml", *words])
    assert result.exit_code == 2, result.stderr
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == (1 if result.stderr.startswith("error: ") else 4)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("folder", "words", "line"),
    [
        ("runs/cartpole-lag16-20260102-000000", (), "error: cartpole: no such run"),
        ("runs/cartpole", (), "error: cartpole: no such run"),
        ("mine", ("--output", "mine"), "metadata.name: cartpole is not cartpole-lag16, the job of"),
    ],
)
def test_the_run_of_another_job_is_not_resumed(
    folder: str,
    words: tuple[str, ...],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(MANIFEST)
    manifest = Path(folder, "manifest.yaml")
    manifest.parent.mkdir(parents=True)
    manifest.write_text(MANIFEST.replace("cartpole", "cartpole-lag16"))
    monkeypatch.setattr(LocalRun, "_prepare", lambda run: pytest.fail("it goes on in this folder"))
    result = CliRunner().invoke(main, ["run", "job.yaml", "--resume", *words])
    assert result.exit_code == 2, result.output
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert "lag16" in manifest.read_text()


def test_without_the_worker_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "WORKER_MODULES", ("json", "no_such_module"))
    job = tmp_path / "job.yaml"
    job.write_text(MANIFEST)
    result = CliRunner().invoke(main, ["run", str(job)])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: no_such_module: not installed here; `pip install '.[worker]'` in a checkout of "
        "asyncrl\n",
    )


def test_a_run_completes_with_code_0_and_plain_lines(
    asyncrl: Command, running: Callable[..., subprocess.Popen[str]]
) -> None:
    process = running("run", "job.yaml")
    (folder,) = (asyncrl.folder / "runs").iterdir()
    address = json.loads((folder / "roles" / "learner-0.json").read_text())["http"]
    ask = f"import urllib.request as u; u.urlopen('http://{address}/finish')"
    during = asyncrl("status")
    assert "Running" in during.stdout
    subprocess.run([sys.executable, "-c", ask], check=True)
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in rest
    assert "Complete  cartpole  PolicyVersionsReached" in rest
    assert f"next        asyncrl status runs/{folder.name}" in rest
    status = json.loads(asyncrl("status", "-o", "json").stdout)
    assert status["phase"] == "Complete"
    assert yaml.safe_load(asyncrl("status", "cartpole", "-o", "yaml").stdout) == status


def test_ctrl_c_reaches_only_the_supervisor_and_ends_with_130(
    asyncrl: Command, running: Callable[..., subprocess.Popen[str]]
) -> None:
    process = running("run", "job.yaml")
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    rest, _ = process.communicate(timeout=30)
    (folder,) = (asyncrl.folder / "runs").iterdir()
    assert process.returncode == 130
    assert "ending after a checkpoint" in rest
    assert (folder / "checkpoints" / "saved").exists()
    again = f"asyncrl run runs/{folder.name}/manifest.yaml --output runs/{folder.name} --resume"
    assert again in rest
    status = json.loads(asyncrl("status", "-o", "json").stdout)
    assert (status["phase"], status["reason"]) == ("Suspended", "Interrupted")


class Terminal:
    """A process with a terminal of its own."""

    def __init__(self, asyncrl: Command, *words: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            asyncrl.arguments(*words),
            cwd=asyncrl.folder,
            env={**asyncrl.environment, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: os.login_tty(0),
        )
        os.close(slave)
        self.shown = ""

    def until(self, word: str) -> None:
        """Read until the word is shown."""
        while word not in self.shown:
            assert self._read(), f"{word!r} is not in {self.shown!r}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def rest(self) -> str:
        while self._read():
            pass
        os.close(self._master)
        self.process.wait()
        return self.shown

    def _read(self) -> bool:
        readable, _, _ = select.select([self._master], [], [], 30)
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux: the other end is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def test_the_live_view_in_a_terminal_and_its_ctrl_c(asyncrl: Command) -> None:
    terminal = Terminal(asyncrl, "run", "job.yaml", "--output", "out")
    terminal.until("Running")
    terminal.until("Healthy")
    terminal.type("\x03")
    shown = terminal.rest()
    assert terminal.process.returncode == 130
    assert "\x1b[?25l" in shown, "the cursor is hidden while the picture is redrawn"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "and shown again"
    assert (
        "interrupted after its checkpoint"
        in json.loads((asyncrl.folder / "out" / "status.json").read_text())["message"]
    )
    plain = Terminal(asyncrl, "run", "job.yaml", "--output", "out", "--resume", "--no-live")
    plain.until("Running")
    plain.type("\x03")
    assert "\x1b[?25l" not in plain.rest()


def test_no_color_is_honoured(asyncrl: Command) -> None:
    colour = re.compile("\x1b\\[[0-9;]*3[0-7]m")
    wrong = behaviour("actors", exit=2, reason="EnvironmentFailed", message="broken")
    asyncrl("run", "job.yaml", "--output", "out", *wrong)
    assert colour.search(Terminal(asyncrl, "status", "out").rest())
    without = Terminal(asyncrl, "status", "out", NO_COLOR="1").rest()
    assert "Failed" in without
    assert not colour.search(without)


def test_sigterm_ends_with_130(running: Callable[..., subprocess.Popen[str]]) -> None:
    process = running("run", "job.yaml", "--output", "out")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_failure_is_code_1_and_one_line_on_stderr(asyncrl: Command) -> None:
    line = "spec.workload.gymnasium.id: no environment CartPole-v9; use CartPole-v1"
    wrong = behaviour("actors", exit=2, reason="UnknownEnvironment", message=line)
    one = ("--set", "spec.actors.replicas=1")
    result = asyncrl("run", "job.yaml", "--quiet", "--output", "out", *one, *wrong)
    assert result.returncode == 1
    assert result.stderr == f"error: actor-0: {line}\n"
    assert result.stdout.startswith("Failed  cartpole  UnknownEnvironment\n")
    assert "next        asyncrl logs out" in result.stdout
    shown = asyncrl("status", "out")
    assert f"UnknownEnvironment: actor-0: {line}" in shown.stdout


def test_logs_show_all_processes_or_one(asyncrl: Command) -> None:
    wrong = behaviour("actors", exit=2, reason="EnvironmentFailed", message="broken")
    asyncrl("run", "job.yaml", "--output", "out", "--set", "spec.actors.replicas=1", *wrong)
    everything = asyncrl("logs", "out").stdout
    assert "actor-0            | actor-0 starts" in everything
    assert "parameter-server-0 | ---" in everything
    one = asyncrl("logs", "out", "--role", "actor", "--index", "0", "--lines", "2").stdout
    assert [line.split()[0] for line in one.splitlines()] == ["actor-0", "told"]
    followed = asyncrl("logs", "out", "--role", "learner", "--follow")
    assert (followed.returncode, "learner-0 attempt 0" in followed.stdout) == (0, True)
    missing = asyncrl("logs", "out", "--role", "actor", "--index", "7")
    assert (missing.returncode, "no log of actor-7" in missing.stderr) == (2, True)


def test_following_logs_shows_new_lines_and_ends_with_the_run(
    asyncrl: Command, running: Callable[..., subprocess.Popen[str]]
) -> None:
    process = running("run", "job.yaml", "--output", "out")
    follower = asyncrl.start("logs", "out", "--follow", "--role", "learner")
    when_it_says(follower, "learner-0 starts")
    with (asyncrl.folder / "out" / "logs" / "learner-0.log").open("a") as log:
        log.write("a new line\n")
    when_it_says(follower, "a new line")
    process.terminate()
    process.communicate(timeout=30)
    follower.communicate(timeout=30)
    assert follower.returncode == 0


def test_status_tells_when_the_supervisor_was_killed(
    asyncrl: Command, running: Callable[..., subprocess.Popen[str]]
) -> None:
    process = running("run", "job.yaml", "--output", "out")
    process.kill()
    process.wait()
    text = asyncrl("status", "out").stdout
    assert "its supervisor is gone; continue with `asyncrl run out/manifest.yaml" in text


def test_runs_that_do_not_exist_are_code_2() -> None:
    for command in ("status", "logs", "plot"):
        result = CliRunner().invoke(main, [command, "nothing"])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: nothing: no such run")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_ASYNCRL_COMPLETE" in result.stdout
