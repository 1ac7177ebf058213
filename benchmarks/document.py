"""docs/benchmarks.md: prose by hand, tables from the results, between markers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import FIGURES
from benchmarks.index import BENCHMARKS, Benchmark, aim
from benchmarks.results import Result, load

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
IMAGES = Path(__file__).parent.parent / "images"


def section(benchmark: Benchmark, result: Result | None) -> str:
    """The table of one benchmark with its target, command, circumstances and figure."""
    head = f"{aim(benchmark)}\n\n" if benchmark.target else ""
    if result is None:
        return f"{head}Not measured yet: `python -m benchmarks {benchmark.name}`."
    machine = result.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    figure = f"\n\n![{benchmark.title}](../images/{benchmark.name}.svg)"
    return (
        f"{head}{benchmark.table(result.data)}\n\n"
        f"`{result.command}`, {result.seconds / 60:.0f} min, {machine['time'][:10]}, "
        f"{machine['processor']}, {machine['cores']} cores, load before the end "
        f"{machine['load']}; {versions}.{figure if benchmark.name in FIGURES else ''}"
    )


def fill(text: str, results: Path) -> str:
    """The document with the tables of the results in `results`. ValueError for a missing marker."""
    for benchmark in BENCHMARKS:
        begin, end = (f"<!-- {benchmark.name}{suffix} -->" for suffix in ("", " end"))
        start, stop = text.find(begin), text.find(end)
        if not 0 <= start < stop:
            raise ValueError(f"docs/benchmarks.md: no lines {begin} and {end}; add them")
        body = section(benchmark, load(results, benchmark.name))
        text = f"{text[:start]}{begin}\n\n{body}\n\n{text[stop:]}"
    return text
