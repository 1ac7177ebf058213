"""`asyncrl explain`: a field of the manifest, in a few lines."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from asyncrl.cli.main import main


def test_a_field_is_explained() -> None:
    done = CliRunner().invoke(main, ["explain", "spec.staleness.max"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("spec.staleness.max <integer>\n  Bound of staleness")
    assert "  default: 4\n" in done.stdout


def test_without_a_path_the_spec_is_explained() -> None:
    done = CliRunner().invoke(main, ["explain"])
    assert done.exit_code == 0
    assert "\n  staleness <mapping> " in done.stdout


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("spec.stalenes.max", "spec.stalenes: unknown field; did you mean 'staleness'?"),
        ("stability", "stability: unknown field; did you mean spec.stability?"),
    ],
)
def test_an_unknown_path_is_code_2_and_one_line(path: str, line: str) -> None:
    done = CliRunner().invoke(main, ["explain", path])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("start", "found"),
    [
        ("spec.sta", {"spec.staleness", "spec.stability"}),
        ("s", {"spec", "status"}),
        ("spec.actors.env.", {"spec.actors.env.name", "spec.actors.env.value"}),
        ("spec.nothing.x", set()),
    ],
)
def test_the_shell_completes_a_path(start: str, found: set[str]) -> None:
    completion = BashComplete(main, {}, "asyncrl", "_ASYNCRL_COMPLETE")
    items = completion.get_completions(["explain"], start)
    assert {item.value for item in items} == found
