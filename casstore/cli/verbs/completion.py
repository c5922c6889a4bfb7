"""casstore completion"""

from __future__ import annotations

import os

import click
from click import shell_completion

from casstore.cli.options import COMPLETE_VARIABLE, PROGRAM, Options, common_options

# click's own script hands over the words as bash splits them, also at ":", which takes tags apart. This one
# hands over the line, and gives back what stands after the last ":" of the word, which is what bash replaces.
_BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" word prefix="" item kind value
    word="${line##*[[:space:]]}"
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then prefix="${word%%"${word##*:}"}"; fi
    for item in $(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r kind value <<< "$item"
        case $kind in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain) COMPREPLY+=("${value#"$prefix"}") ;;
        esac
    done
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class BashCompletion(shell_completion.BashComplete):
    """click's completion for bash, with tags kept in one piece."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = shell_completion.split_arg_string(line)[1:]
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words, incomplete


shell_completion.add_completion_class(BashCompletion)


def complete(command: click.Command, options: Options, instruction: str) -> int:
    """Do what the script of a shell asks for; returns the exit code."""
    return shell_completion.shell_complete(command, {"obj": options}, PROGRAM, COMPLETE_VARIABLE, instruction)


_INSTALL = """\b
Install it, for good:
  casstore completion bash >> ~/.bashrc
  casstore completion zsh >> ~/.zshrc
  casstore completion fish > ~/.config/fish/completions/casstore.fish
Or in this shell only:
  eval "$(casstore completion bash)"
"""


@click.command(epilog=_INSTALL)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script for completion in a shell.

    With it, TAB completes verbs, options, tags and settings.
    """
    found = shell_completion.get_completion_class(shell)
    if found is None:  # pragma: no cover - click knows the three
        raise click.UsageError(f"there is no completion for {shell}", context)
    script = found(context.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE)
    click.echo(script.source_template % script.source_vars())
