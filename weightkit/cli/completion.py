"""``weightkit completion``."""

from __future__ import annotations

import click

from weightkit.cli.usage import Job

EXAMPLES = (
    'eval "$(weightkit completion bash)"    # in ~/.bashrc',
    'eval "$(weightkit completion zsh)"     # in ~/.zshrc',
    "weightkit completion fish | source     # in config.fish",
)


@click.command("completion", cls=Job, examples=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete weightkit's commands, options and releases."""
    from click.shell_completion import get_completion_class

    from weightkit.cli import main

    found = get_completion_class(shell)
    assert found is not None  # click has all three
    click.echo(found(main, {}, "weightkit", "_WEIGHTKIT_COMPLETE").source())
