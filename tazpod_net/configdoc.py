"""The reference of the configuration, made from the code: tables of two pages under docs, JSON Schema.

Owns these texts; nothing at run time imports it. `python -m tazpod_net.configdoc docs` writes them anew, and a test
fails when they differ from the code.
"""

import json
import os
import sys
from typing import Any

import msgspec

from tazpod_net.core.containerboot import DEFAULTS as THEIR_DEFAULTS
from tazpod_net.core.containerboot import NAME, TABLE
from tazpod_net.core.environment import CONTAINERBOOT, EXTRA_ARGS, UP_SWITCHES, UP_VALUES
from tazpod_net.core.layers import kind_of, limits
from tazpod_net.core.options import DEFAULTS, NOT_YET, SECTIONS, Config, Secret, all_keys, annotation, value_of

PAGE = "configuration.md"
CONTAINERBOOT_PAGE = "containerboot.md"
SCHEMA = "config.schema.json"
BEGIN = "<!-- made by python -m tazpod_net.configdoc: begin -->\n"
END = "<!-- made by python -m tazpod_net.configdoc: end -->\n"

_KINDS = {
    "auto": '`"auto"`, `true`, `false`',
    "bool": "`true`, `false`",
    "int": "whole number",
    "secret": "text",
    "seconds": "seconds",
    "text": "text",
    "words": "list of texts",
}


def tables() -> str:
    """One Markdown table for each section."""
    return "\n".join(_section(section) for section in SECTIONS)


def _section(section: str) -> str:
    head = f"## [{section}]\n\n{SECTIONS[section].__doc__}\n\n"
    head += "| key | values | default | meaning | containerboot's name |\n|---|---|---|---|---|\n"
    rows = [_row(key) for key in all_keys() if key.startswith(f"{section}.")]
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(key: str) -> tuple[str, str, str, str, str]:
    meaning = _description(annotation(key)).replace("|", "\\|")
    if key in NOT_YET:
        meaning += f". *Checked, not used by this version ({NOT_YET[key]})*"
    return f"`{key.partition('.')[2]}`", _values(key), _default(key), meaning, _containerboot(key)


def _description(declared: Any) -> str:
    return "".join(meta.description or "" for meta in declared.__metadata__)


def _values(key: str) -> str:
    declared: Any = annotation(key)
    kind = kind_of(declared)
    if kind == "choice":
        return ", ".join(f'`"{value}"`' for value in declared.__args__[0].__args__)
    bounds = limits(declared)
    return f"{bounds['ge']} to {bounds['le']}" if kind == "int" else _KINDS[kind]


def _default(key: str) -> str:
    value = value_of(DEFAULTS, key)
    if value is None or (isinstance(value, (str, Secret)) and not value):
        return ""
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return f"`{text}`"


def _containerboot(key: str) -> str:
    names = [name for name, meant in CONTAINERBOOT.items() if meant == key]
    options = [name for name, meant in (UP_SWITCHES | UP_VALUES).items() if meant == key]
    names += [f"{EXTRA_ARGS} `--{name}`" for name in options]
    return ", ".join(names)


def page(old: str) -> str:
    """`old`, a page, with its tables made anew."""
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def containerboot_page(old: str) -> str:
    """`old`, the page for containerboot's users, with its tables made anew."""
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    rows = "".join(f"| `{name}` | {row.text} |\n" for name, row in TABLE.items())
    defaults = "".join(f"| `{key}` | `{json.dumps(value)}` |\n" for key, value in THEIR_DEFAULTS.items())
    head = f"| key | default with `TAZPOD_NET_COMPAT={NAME}` |\n|---|---|\n"
    made = f"| variable | here |\n|---|---|\n{rows}\n{head}{defaults}"
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def schema() -> str:
    """The JSON Schema of a configuration file, as JSON text."""
    made = msgspec.json.schema(Config, schema_hook=_secret_schema)
    sections = {name: _without_null(section) for name, section in made["$defs"].items()}
    top = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | sections.pop("Config")
    return json.dumps(top | {"title": "tazpod-net's config.toml", "$defs": sections}, indent=2) + "\n"


def _secret_schema(_: type) -> dict[str, str]:
    return {"type": "string"}


def _without_null(section: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: "left alone" is a key that is not there."""
    for name, declared in section.get("properties", {}).items():
        members = [member for member in declared.get("anyOf", ()) if member != {"type": "null"}]
        if len(members) == 1:
            rest = {word: value for word, value in declared.items() if word not in {"anyOf", "default"}}
            section["properties"][name] = rest | members[0]
    return section


def main(directory: str) -> None:
    """Write all files anew below `directory`."""
    for name, made in ((PAGE, page), (CONTAINERBOOT_PAGE, containerboot_page)):
        path = os.path.join(directory, name)
        with open(path, encoding="utf-8") as file:
            old = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(made(old))
    with open(os.path.join(directory, SCHEMA), "w", encoding="utf-8") as file:
        file.write(schema())


if __name__ == "__main__":
    main(sys.argv[1])
