"""The shape of the code: who may import whom, what the core may touch, and what each process loads.

The table below is the one of `docs/architecture.md`. A module that is in no layer fails the first test: say where it
belongs.
"""

import ast
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tazpod_net"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Layer -> its modules (a name, or a package with everything in it), and the layers that it may import.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "errors": ({"errors"}, set()),
    "version": ({""}, set()),
    "core": ({"core"}, {"core", "errors"}),
    "kernel": ({"home", "linux", "rotating"}, {"core", "errors", "kernel"}),  # paths and system calls, no policy
    "ports": ({"ports"}, {"core"}),
    "shell": (
        {
            *("engine", "exposition", "session", "supervisor", "service", "serveapply"),
            *("targets", "names", "hostrequests"),
        },
        {"core", "errors", "ports", "shell"},
    ),
    "shared adapters": ({"adapters.files", "adapters.https", "adapters.oneshot"}, {"core", "errors", "kernel"}),
    "adapters": ({"adapters"}, {"core", "errors", "kernel", "shared adapters", "version"}),
    "configuration": ({"config", "configdoc"}, {"core", "errors", "configuration"}),
    "composition": (
        {"boot", "credentials", "daemon", "foreign", "web", "wiring"},
        {
            *("core", "errors", "version", "kernel", "ports", "shell", "shared adapters", "adapters", "configuration"),
            "composition",
        },
    ),
    "control": ({"control"}, {"kernel"}),
    "init": ({"init"}, {"adapters", "command line"}),  # PID 1: what it imports at its top is all that it has
    "launcher": ({"launcher", "__main__"}, {"kernel", "control", "init", "launcher", "command line"}),
    # Started by sudo as a program of its own, so it ends as the launcher does.
    "root's end": ({"cli.asroot"}, {"errors", "kernel", "shared adapters", "launcher", "command line"}),
    "command line": (
        {"cli"},
        {
            *("core", "errors", "version", "kernel", "shared adapters", "adapters", "configuration", "composition"),
            *("control", "init", "command line", "root's end"),
        },
    ),
}

# What core may use of the standard library; a set: only these of its names.
PURE: dict[str, set[str] | None] = {
    "collections": None,
    "datetime": {"datetime", "fromisoformat", "timestamp"},
    "difflib": None,
    "enum": None,
    "errno": None,
    "functools": None,
    "ipaddress": None,
    "itertools": None,
    "json": {"dumps", "loads"},  # msgspec refuses text that is not UTF-8, and an environment may be such
    "msgspec": None,
    "os": {"path", "strerror"},
    "re": None,
    "shlex": {"join", "quote"},
    "signal": {"Signals", "SIGKILL"},
    "struct": None,
    "time": {"gmtime", "strftime"},
    "typing": None,
    "zlib": None,
}
IMPURE_PATH = {"abspath", "exists", "expanduser", "expandvars", "getsize", "isdir", "isfile", "islink", "realpath"}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "breakpoint"}


def name_of(path: Path) -> str:
    """`core.machine` for its file, the empty name for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(name: str) -> str | None:
    """The layer of a module; a module that is named wins over its package."""
    for wanted in (name, name.partition(".")[0]):
        for layer, (modules, _) in LAYERS.items():
            if wanted in modules:
                return layer
    return None


def tree_of(path: Path) -> ast.Module:
    """A parsed source file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def own_imports(tree: ast.Module) -> Iterator[str]:
    """Modules of this package that a file imports, wherever in the file; types only for the type checker included."""
    modules = {name_of(path) for path in SOURCES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "tazpod_net":
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            package, _, base = (node.module or "").partition(".")
            if package == "tazpod_net":
                for alias in node.names:
                    below = f"{base}.{alias.name}".strip(".")
                    yield below if below in modules else base


def shown(path: Path) -> str:
    """The id of a parametrised file."""
    return name_of(path) or "tazpod_net"


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_imports_point_downwards(path: Path) -> None:
    """Every module is in a layer, and imports only from the layers that its own may import."""
    name = name_of(path)
    layer = layer_of(name)
    assert layer is not None, f"{name} is in no layer: add it to LAYERS above and to docs/architecture.md"
    allowed = LAYERS[layer][1]
    wrong = [f"{name} ({layer}) -> {other}" for other in own_imports(tree_of(path)) if layer_of(other) not in allowed]
    assert wrong == []


def test_no_import_goes_round_in_a_circle() -> None:
    """The imports that run when a module is loaded form a tree that can be read from its leaves up."""
    below: dict[str, set[str]] = {}
    for path in SOURCES:
        tree = tree_of(path)
        tree.body = [node for node in tree.body if not is_for_types(node)]
        for node in ast.walk(tree):
            if is_function(node):
                node.body = []
        below[name_of(path)] = set(own_imports(tree)) - {""}
    while leaves := {name for name, others in below.items() if not others & below.keys() - {name}}:
        below = {name: others for name, others in below.items() if name not in leaves}
    assert below == {}


def is_function(node: ast.AST) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Code that does not run when its module is loaded."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def is_for_types(node: ast.stmt) -> bool:
    """`if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


CORE = [path for path in SOURCES if path.parent.name == "core"]


@pytest.mark.parametrize("path", CORE, ids=shown)
def test_core_imports_nothing_that_acts(path: Path) -> None:
    """Core uses msgspec and the parts of the standard library that only compute."""
    wrong = []
    for node in ast.walk(tree_of(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        wrong += [name for name in names if name.partition(".")[0] not in {*PURE, "tazpod_net"}]
    assert wrong == []


def impure_uses(tree: ast.Module) -> list[str]:
    """Names of impure things that a file uses: of modules in PURE what is not allowed there, and builtins that act."""
    modules = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and PURE.get(node.module or "") is not None:
            found += [alias.name for alias in node.names if alias.name not in (PURE[node.module or ""] or set())]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            allowed = PURE.get(modules.get(node.value.id, ""))
            found += [f"{node.value.id}.{node.attr}"] if allowed is not None and node.attr not in allowed else []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "path":
            found += [f"path.{node.attr}"] if node.attr in IMPURE_PATH else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{node.func.id}()")
    return found


@pytest.mark.parametrize("path", CORE, ids=shown)
def test_core_reads_no_clock_and_no_file(path: Path) -> None:
    """Of modules that can do both, only the computing names are used: no `time.time`, no `os.environ`, no `open`."""
    assert impure_uses(tree_of(path)) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.time()", ["time.time"]),
        ("import time as t\nt.monotonic()", ["t.monotonic"]),
        ("from time import monotonic", ["monotonic"]),
        ("import os\nos.environ", ["os.environ"]),
        ("import os\nos.path.exists('x')", ["path.exists"]),
        ("open('x')", ["open()"]),
        ("from datetime import datetime", []),
        ("import os, time\nos.path.join('a')\ntime.gmtime(0)", []),
    ],
)
def test_that_check_sees_what_it_should(source: str, found: list[str]) -> None:
    """Each way around the rule is found, and the allowed names are not."""
    assert impure_uses(ast.parse(source)) == found


def test_core_loads_alone() -> None:
    """The whole core can be imported without a loop, a socket, a subprocess or a logger being loaded."""
    names = [f"tazpod_net.{name_of(path)}" for path in CORE if name_of(path) != "core"]
    loaded = loaded_by("import " + ", ".join(names))
    assert {"asyncio", "socket", "subprocess", "logging", "selectors", "tempfile"} & loaded == set()


# --- reasons ----------------------------------------------------------------------------------------------------------


def has_reason(lines: list[str], number: int, marker: str) -> bool:
    """Whether line `number` (from 1) has `marker - words`, or a comment stands right above it."""
    _, found, rest = lines[number - 1].partition(marker)
    if found and rest.strip(" -#"):
        return True
    return lines[number - 2].strip().startswith("#")


def late_imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports inside functions; of several in a row, the first."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for block in ast.walk(function):
            body = [*getattr(block, "body", ()), *getattr(block, "orelse", ())] if isinstance(block, ast.stmt) else []
            for before, node in zip([None, *body], body, strict=False):
                if isinstance(node, ast.Import | ast.ImportFrom) and not isinstance(
                    before, ast.Import | ast.ImportFrom
                ):
                    yield node


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_imports_inside_functions_say_why(path: Path) -> None:
    """An import that is put off costs readers; it stands only where a comment says what it saves."""
    lines = path.read_text(encoding="utf-8").splitlines()
    late = late_imports(tree_of(path))
    assert [lines[n.lineno - 1] for n in late if not has_reason(lines, n.lineno, "noqa: PLC0415")] == []


@pytest.mark.parametrize(
    ("source", "excused"),
    [
        ("def f():\n    import json", False),
        ("def f():\n    import json  # noqa: PLC0415", False),
        ("def f():\n    import json  # noqa: PLC0415 - 8 ms", True),
        ("def f():\n    # 8 ms\n    import json", True),
        ("def f():\n    import json  # noqa: PLC0415 - 8 ms\n    import re", True),
        ("def f():\n    if x:\n        import json", False),
        ("import json", True),
    ],
)
def test_reasons_are_really_asked_for(source: str, excused: bool) -> None:
    """An import in a function without words is found, wherever it stands in there."""
    lines = source.splitlines()
    silent = [n for n in late_imports(ast.parse(source)) if not has_reason(lines, n.lineno, "noqa: PLC0415")]
    assert (silent == []) is excused


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Catches everything, or nearly."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(c is None or (isinstance(c, ast.Name) and c.id in {"Exception", "BaseException"}) for c in caught)


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_handlers_for_everything_say_why(path: Path) -> None:
    """A handler that swallows any exception has its reason beside it; one that raises it again needs none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    broad = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.ExceptHandler) and is_broad(n)]
    silent = [n for n in broad if not any(isinstance(inner, ast.Raise) for inner in ast.walk(n))]
    assert [lines[n.lineno - 1] for n in silent if not has_reason(lines, n.lineno, "noqa: BLE001")] == []


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_sleeps(path: Path) -> None:
    """Tests wait for a line, an event or `eventually`; only what tests/support has for that may sleep."""
    if "support" in path.parts:
        return
    sleeps = [
        f"line {node.lineno}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    ]
    assert sleeps == []


# --- what each process loads ------------------------------------------------------------------------------------------


def loaded_by(code: str, *arguments: str, bare: bool = False) -> set[str]:
    """Modules that a fresh interpreter has loaded after `code` and had not at its start; `bare`: without site."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); _before = set(sys.modules)\n"
        + code
        + "\nprint('LOADED', *sorted(m for m, v in sys.modules.items() if v is not None and m not in _before))"
    )
    done = subprocess.run(
        [sys.executable, *(["-I", "-S"] if bare else []), "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


HEAVY = {
    *("ssl", "_ssl", "_hashlib", "rich", "pyroute2", "psutil", "tenacity", "argparse", "pathlib", "tempfile"),
    *("http.client", "urllib.request", "email", "unittest", "tomllib", "difflib", "ipaddress", "multiprocessing"),
}


def test_the_supervisor_loads_nothing_heavy() -> None:
    """What the long-lived process has in memory, its own log included, is free of what it must not have.

    Each of these costs memory for ever or start-up time: `ssl` 4 MB, `rich` 9 MB, pyroute2 20 MB.
    """
    code = (
        "import tazpod_net.wiring\nfrom tazpod_net.adapters.ownlog import OwnLog\n"
        "log = OwnLog('/dev/null', max_bytes=65536, files=0); log.event('x', why='y'); log.open()"
    )
    loaded = loaded_by(code)
    assert {"tazpod_net.wiring", "asyncio", "structlog"} <= loaded
    assert HEAVY & loaded == set()
    assert [name for name in loaded if name.startswith("tazpod_net.cli")] == []


def test_the_http_side_costs_only_those_who_ask() -> None:
    """Nothing of it is loaded before it is wanted, and then nothing heavy: no client library of Prometheus."""
    own = {f"tazpod_net.{name}" for name in ("web", "exposition", "core.metrics", "core.probes", "adapters.httpserver")}
    assert own & loaded_by("import tazpod_net.wiring") == set()
    loaded = loaded_by("import tazpod_net.wiring, tazpod_net.web")
    assert own <= loaded
    assert {*HEAVY, "prometheus_client", "http", "http.server", "socketserver"} & loaded == set()


def test_the_daemon_is_spawned_before_the_loop_is_loaded() -> None:
    """Everything up to the spawn does without asyncio and structlog, which cost more than the spawn itself."""
    loaded = loaded_by("import tazpod_net.cli.start, tazpod_net.cli.ignition, tazpod_net.boot")
    late = {"asyncio", "socket", "selectors", "structlog", "logging", "subprocess", "httptools"}
    assert (late | HEAVY) & loaded == set()


@pytest.mark.parametrize(
    "words",
    [["status"], ["status", "--short"], ["status", "--short", "--for", "ready"], ["status", "--json"], ["up"]],
    ids=" ".join,
)
def test_the_hot_forms_load_nothing(words: list[str], scratch: Path) -> None:
    """A prompt's `status` and a shell's `up` are answered with the launcher, the C socket module and little else.

    Without site: what it loads is not ours, and would hide what we do.
    """
    (scratch / "state").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(scratch / "state" / "control.sock"))
    listener.listen()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"O3\nok\nX0\n")

    server = threading.Thread(target=answer)
    server.start()
    try:
        loaded = loaded_by(
            "from tazpod_net import launcher\nassert launcher._hot(sys.argv[1:]) == 0",
            *words,
            "--home",
            str(scratch),
            bare=True,
        )
    finally:
        listener.close()
        server.join()
    own = {"tazpod_net", *(f"tazpod_net.{name}" for name in ("launcher", "control", "home")), "_socket"}
    own |= {"fcntl"} if words == ["up"] else set()
    assert loaded - loaded_by("import os", bare=True) <= own
