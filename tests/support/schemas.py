"""Published schemas out of the packages that carry them: fetched once, read from the wheel, never installed."""

import functools
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import jsonschema
import referencing

from tests.support.progress import Progress, SetupError, cache_directory, fresh_directory, locked

CACHE = cache_directory() / "schemas"  # fixed at import: tests change HOME afterwards
COMPOSE = ("check-jsonschema==0.39.0", "check_jsonschema/builtin_schemas/vendor/compose-spec.json")
KUBERNETES = ("kubernetes-validate==1.37.0", "kubernetes_validate/kubernetes-json-schema/v1.37.0-local/")


def wheel(requirement: str) -> Path:
    """The package as a file. Raises SetupError."""
    target = CACHE / requirement
    with Progress("schemas") as progress, locked(CACHE / "lock", progress):
        if not target.exists():
            with fresh_directory(target) as scratch:
                command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
                command += ["--only-binary=:all:", "--quiet", "--dest", str(scratch), requirement]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise SetupError(f"{requirement} could not be fetched: {done.stderr.strip().splitlines()[-1]}")
    return next(target.glob("*.whl"))


@functools.cache
def read(requirement: str, name: str) -> dict[str, Any]:
    """A JSON file of the package."""
    with zipfile.ZipFile(wheel(requirement)) as archive:
        return cast("dict[str, Any]", json.loads(archive.read(name)))


def complaints_of_compose(document: object) -> list[str]:
    """What the Compose Specification's schema has against it."""
    return _complaints(document, read(*COMPOSE))


def complaints_of_kubernetes(document: dict[str, Any]) -> list[str]:
    """What the schema of its kind has against it; an unknown field is a complaint too."""
    package, directory = KUBERNETES
    group = str(document["apiVersion"]).replace("/", "-")
    schema = read(package, f"{directory}{str(document['kind']).lower()}-{group}.json")
    definitions = read(package, f"{directory}_definitions.json")
    return _complaints(document, _closed(schema), _closed(definitions))


def _complaints(document: object, schema: dict[str, Any], *others: dict[str, Any]) -> list[str]:
    resources = [referencing.Resource.from_contents(other) for other in others]
    registry: referencing.Registry[Any] = resources @ referencing.Registry()
    found = jsonschema.Draft202012Validator(schema, registry=registry).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def _closed(schema: Any) -> Any:
    """The same schema, in which an object with named properties has no others: a misspelt field is found."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    open_ended = {"additionalProperties", "patternProperties", "$ref", "x-kubernetes-preserve-unknown-fields"}
    is_object = "object" in schema.get("type", ()) and isinstance(schema.get("properties"), dict)
    if is_object and not open_ended & schema.keys():
        closed["additionalProperties"] = False
    return closed
