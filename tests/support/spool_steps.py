"""Ends the log's code at any chosen step, as a kill would: every change that it makes to the disk is one step."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tazpod_net import linux, rotating
from tazpod_net.adapters import spool

_CHANGES = ("ftruncate", "makedirs", "open", "pwrite", "rename", "replace", "unlink", "write")


class CrashError(BaseException):
    """Stands for the end of the process: no `except OSError` of the code sees it."""


class Steps:
    """Counts the changes to the disk, and crashes before, or in the middle of, the one with number `last`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.last: int | None = None
        self.halfway = False
        patch.setattr(spool, "os", self)
        patch.setattr(rotating, "os", self)
        patch.setattr(spool, "punch_hole", self._stepped("punch", linux.punch_hole))

    def arm(self, last: int, *, halfway: bool = False) -> None:
        """Starts counting again; step `last` (from 0) will be the crash."""
        self.done, self.last, self.halfway = [], last, halfway

    def disarm(self) -> list[str]:
        """No crash any more; returns the steps that were made."""
        self.last = None
        return self.done

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        return self._stepped(name, found) if name in _CHANGES else found

    def _stepped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.last is not None and len(self.done) == self.last:
                if self.halfway and name == "write":
                    call(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise CrashError(name)
            self.done.append(name)
            return call(*args, **kwargs)

        return step
