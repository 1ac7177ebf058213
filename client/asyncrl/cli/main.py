"""The `asyncrl` command. Subcommands are imported when they are used, so that help is instant."""

from __future__ import annotations

import importlib

import click

from asyncrl import __version__

COMMANDS = {
    "run": ("Run a job on this machine.", "asyncrl.cli.run"),
    "validate": ("Check a manifest, and show what it resolves to.", "asyncrl.cli.validate"),
    "explain": ("Explain a field of the manifest.", "asyncrl.cli.explain"),
    "status": ("Show the state of a run, or of jobs on a cluster.", "asyncrl.cli.status"),
    "logs": ("Print the logs of a run's or a job's processes.", "asyncrl.cli.logs"),
    "submit": ("Create a job on a cluster.", "asyncrl.cli.submit"),
    "watch": ("Watch a job on a cluster until its run has ended.", "asyncrl.cli.watch"),
    "scale": ("Change the number of actors of a job on a cluster.", "asyncrl.cli.scale"),
    "suspend": ("Stop a job on a cluster after a checkpoint.", "asyncrl.cli.suspend"),
    "resume": ("Let a suspended job on a cluster go on.", "asyncrl.cli.resume"),
    "delete": ("Delete a job on a cluster.", "asyncrl.cli.delete"),
    "plot": ("Write the report of a run, and print its path.", "asyncrl.cli.plot"),
    "completion": ("Print the completion script of a shell.", "asyncrl.cli.completion"),
}


class Commands(click.Group):
    """A group that knows its subcommands by name and imports only the one in use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][1]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in COMMANDS.items()])


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 complete, 1 failed, 2 wrong manifest or usage, 69 the cluster does not "
    "answer, 130 interrupted after its checkpoint.",
)
@click.version_option(__version__, prog_name="asyncrl", message="%(prog)s %(version)s")
def main() -> None:
    """Asynchronous reinforcement learning that does not collapse.

    \b
    asyncrl run examples/cartpole.yaml
    """


if __name__ == "__main__":
    main()
