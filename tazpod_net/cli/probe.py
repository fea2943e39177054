"""`probe`: which mode would be chosen and why; changes nothing but a scratch device that it removes. rich draws."""

import argparse
import os
import subprocess
import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tazpod_net import config
from tazpod_net.adapters.process import argv_of
from tazpod_net.adapters.quickprobe import quick
from tazpod_net.cli.common import home_of
from tazpod_net.core.argv import read_argv
from tazpod_net.core.tun import Choice, Facts, Full, Verdict, choose_mode, findings, judge, with_full, without_root
from tazpod_net.daemon import read_record
from tazpod_net.errors import EXIT_FAILED, EXIT_OK
from tazpod_net.home import Layout

_PATIENCE = 15.0  # seconds for the child that asks netlink


def probe(arguments: argparse.Namespace) -> int:
    """Exit 0 if the configured mode can be had."""
    layout = Layout(home_of(arguments))
    loaded = config.load(home=layout.home, env=os.environ, config_file=arguments.config)
    daemon = loaded.config.daemon
    no_root: tuple[str, str] | None = None
    if os.geteuid() != 0:
        from tazpod_net.cli import sudo  # noqa: PLC0415 - root never needs it

        seen = sudo.look(arguments, layout, daemon)
        if isinstance(seen, int):
            return seen
        no_root = seen
    record = read_record(layout.daemon_record)
    alive = record.fits()
    facts = quick(daemon.interface, interface_is_ours=alive and read_argv(argv_of(record.pid)).mode == "tun")
    if not (alive and judge(facts).possible):  # a scratch device would cut the living daemon's connections
        full = _full(daemon.interface)
        facts = facts if full is None else with_full(facts, full)
    verdict = judge(facts)
    if no_root is not None:
        verdict = without_root(verdict, *no_root)
    choice = choose_mode(daemon.mode, verdict)
    if arguments.json:
        sys.stdout.buffer.write(msgspec.json.encode(_object(daemon.mode, facts, verdict, choice)) + b"\n")
    else:
        _show(facts, choice)
    return EXIT_FAILED if choice.refused is not None else EXIT_OK


def _full(interface: str) -> Full | None:
    """The child's answer; None if it could not be had, which `findings` then leaves out."""
    argv = [sys.executable, "-P", "-m", "tazpod_net.adapters.fullprobe"]
    try:
        done = subprocess.run(
            argv,
            input=msgspec.json.encode({"interface": interface}),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=Full)
    except (subprocess.TimeoutExpired, OSError, msgspec.DecodeError):
        return None


def _object(configured: str, facts: Facts, verdict: Verdict, choice: Choice) -> dict[str, Any]:
    return {
        "schema": 1,
        "configured": configured,
        "mode": choice.mode,
        "reason": choice.reason,
        "fix": choice.fix or None,
        "refused": None if choice.refused is None else ": ".join(choice.refused),
        "tun": msgspec.structs.asdict(verdict),
        "findings": [msgspec.structs.asdict(finding) for finding in findings(facts)],
    }


def _show(facts: Facts, choice: Choice) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    mode = {"tun": "TUN", "userspace": "userspace", None: "none"}[choice.mode]
    console.print(f"mode: {mode} ({choice.reason})", soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    marks = {True: "[green]yes[/]", False: "[red]no[/]", None: "-"}
    for finding in findings(facts):
        text = finding.text + (f": {finding.fix}" if finding.fix else "")
        table.add_row(marks[finding.ok], finding.name, text)
    console.print(table)
    if choice.refused is not None:
        console.print(f"cannot start: {choice.refused[0]}: {choice.refused[1]}", soft_wrap=True)
    elif choice.fix:
        console.print(f"for TUN: {choice.fix}", soft_wrap=True)
