"""Print a script that makes a shell complete the commands and options of `broker`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from broker.cli import common, full_parser

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
INSTALL = "pip install shtab"

EPILOG = """\
The script goes to standard output. To install it:

  bash   broker completion bash > ~/.local/share/bash-completion/completions/broker
  zsh    broker completion zsh > ~/.zfunc/_broker, with fpath=(~/.zfunc $fpath) before compinit in ~/.zshrc
  fish   broker completion fish > ~/.config/fish/completions/broker.fish

It needs the package shtab, which comes with the extra completion.

Exit status: 0; 1 if shtab is missing; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `broker completion`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    """Print the script, and return the exit status that the help describes."""
    try:
        import shtab  # optional
    except ImportError:
        common.say("completion", f"the package shtab is missing: {INSTALL}")
        return 1
    complete: Callable[..., str] = shtab.complete
    sys.stdout.write(complete(full_parser(), shell=args.shell))
    return 0
