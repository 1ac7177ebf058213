"""`asyncrl completion`: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: asyncrl completion bash > ~/.local/share/bash-completion/completions/asyncrl
    zsh:  asyncrl completion zsh > a folder of your fpath, as _asyncrl
    fish: asyncrl completion fish > ~/.config/fish/completions/asyncrl.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root().command
    click.echo(kind(root, {}, "asyncrl", "_ASYNCRL_COMPLETE").source())
