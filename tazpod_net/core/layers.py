"""Values on their way into the configuration: from one source, converted, and laid over those of earlier sources.

Owns the conversion of a single value and the order of sources; it reads neither files nor the environment.
Every error is collected as one line, `WHERE: what is wrong: what to write`.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from tazpod_net.core.durations import parse_duration
from tazpod_net.core.govalues import go_bool, go_int
from tazpod_net.core.options import DEFAULTS, SECRET, Secret, annotation, value_of


class Given(msgspec.Struct, frozen=True):
    """One value and where it stands.

    `base`: the directory that relative paths start from, None where there is none. `is_text`: the value is a text
    from the environment, to be read as its key's type wants it.
    """

    value: object
    where: str
    base: str | None = None
    is_text: bool = False


Layer = dict[str, Given]  # key -> value, all of one source


def merge(layers: Iterable[Layer], problems: list[str]) -> Layer:
    """Converted values of all `layers`, later ones win; what cannot be converted goes to `problems`."""
    merged: Layer = {}
    for layer in layers:
        converted = _converted(layer, problems)
        _refuse_two_keys(converted, problems)
        merged |= converted
    return merged


def _converted(layer: Layer, problems: list[str]) -> Layer:
    good: Layer = {}
    for key, given in layer.items():
        try:
            value = convert(key, given)
        except ValueError as error:
            problems.append(f"{given.where}: {key} = {shown(key, given.value)} {error}")
        else:
            good[key] = msgspec.structs.replace(given, value=value)
    _split_key_file(good)
    return good


def _split_key_file(layer: Layer) -> None:
    """`auth_key = "file:PATH"`, containerboot's form, is `auth_key_file`."""
    given = layer.get(SECRET)
    if given is None or not isinstance(given.value, Secret):
        return
    prefix, colon, path = given.value.reveal().partition(":")
    named = layer.get(f"{SECRET}_file")
    # Both in one source stays as it is, and is an error.
    if prefix == "file" and colon and not (named and named.value):
        del layer[SECRET]
        layer[f"{SECRET}_file"] = msgspec.structs.replace(given, value=path)


def _refuse_two_keys(layer: Layer, problems: list[str]) -> None:
    """In one source that is a mistake; a key in one source and a key file in another are tried in turn."""
    named = [key for key in (SECRET, f"{SECRET}_file") if key in layer and layer[key].value]
    if len(named) > 1:
        problems.append(f"{layer[SECRET].where}: {' and '.join(named)} are both set: remove one of them")


def convert(key: str, given: Given) -> object:
    """The value of `given` in the type of `key`.

    Raises:
        ValueError: it does not fit; the text continues `key = value ...` and ends with what to write.
    """
    declared: Any = annotation(key)
    kind = kind_of(declared)
    value = given.value
    try:
        if given.is_text and isinstance(value, str):
            value = _FROM_TEXT.get(kind, str)(value)
        found = _secret(value) if kind == "secret" else msgspec.convert(value, declared)
    except ValueError:
        if kind == "text" and value == "":
            raise ValueError(f"is empty: write {_default(key, given)}, or leave it out") from None
        # msgspec's ValidationError is a ValueError; its text speaks of Python's types, ours of TOML.
        raise ValueError(f"is not {_expected(declared, kind)}: write {_example(key, kind, given)}") from None
    _refuse_unprintable(found)
    return found


def _secret(value: object) -> Secret:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004 - as for every other value that does not fit
    return Secret(value.strip())


def _refuse_unprintable(value: object) -> None:
    """Neither the operating system nor `status --json` can hold these."""
    texts = value if isinstance(value, tuple) else (value,)
    for text in texts:
        if isinstance(text, Secret):
            text = text.reveal()  # noqa: PLW2901 - looked at, never shown
        if not isinstance(text, str):
            continue
        if "\0" in text:
            raise ValueError("holds a NUL character: remove it")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("is not UTF-8: write it in UTF-8")


def split_words(text: str) -> list[str]:
    """A list as the environment has it: separated by commas; an empty text is an empty list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _auto_or_bool(text: str) -> object:
    return text if text == "auto" else go_bool(text)


_FROM_TEXT: dict[str, Callable[[str], object]] = {
    "bool": go_bool,
    "auto": _auto_or_bool,
    "int": go_int,
    "seconds": parse_duration,
    "words": split_words,
}
_KINDS: dict[object, str] = {bool: "bool", int: "int", float: "seconds", str: "text", Secret: "secret"}


def kind_of(declared: object) -> str:
    """One of bool, int, seconds, text, secret, choice, words and auto (true, false or `auto`)."""
    if get_origin(declared) is Annotated:
        return kind_of(get_args(declared)[0])
    if declared in _KINDS:
        return _KINDS[declared]
    if get_origin(declared) is tuple:
        return "words"
    if get_origin(declared) is Literal:
        return "choice"
    members = [member for member in get_args(declared) if member is not type(None)]
    return "auto" if len(members) > 1 else kind_of(members[0])


def limits(declared: object) -> dict[str, float]:
    """The limits of a number or text: `ge`, `gt`, `le`, `min_length`."""
    metas: tuple[msgspec.Meta, ...] = getattr(declared, "__metadata__", ())
    found: dict[str, float] = {}
    for meta in metas:
        for name in ("ge", "gt", "le", "min_length"):
            bound = getattr(meta, name)
            if bound is not None:
                found[name] = bound
    return found


def choices(declared: object) -> tuple[str, ...]:
    """The texts that a key of kind `choice` may have."""
    inner = get_args(declared)[0] if get_origin(declared) is Annotated else declared
    return tuple(str(choice) for choice in get_args(inner))


def _expected(declared: object, kind: str) -> str:
    bounds = limits(declared)
    match kind:
        case "bool":
            return "true or false"
        case "auto":
            return "auto, true or false"
        case "choice":
            return f"one of {', '.join(choices(declared))}"
        case "int":
            return f"a whole number from {bounds['ge']} to {bounds['le']}"
        case "seconds":
            return f"a number of seconds above 0 and up to {bounds['le']}"
        case "words":
            return "a list of texts"
        case _:
            return "a text"


def _example(key: str, kind: str, given: Given) -> str:
    """What may be written instead, in the source's own syntax."""
    quote = "" if given.is_text else '"'
    default = value_of(DEFAULTS, key)
    match kind:
        case "bool" | "auto":
            plain = "" if given.is_text or not isinstance(given.value, str) else " without quotes"
            return (f"{quote}auto{quote}, " if kind == "auto" else "") + f"true or false{plain}"
        case "choice":
            *most, last = [f"{quote}{choice}{quote}" for choice in choices(annotation(key))]
            return f"{', '.join(most)} or {last}"
        case "int":
            return f"{default} for example"
        case "seconds":
            return f"{default:g}s for example" if given.is_text else f"{default:g} for example"
        case "words":
            return 'for example ["one", "two"]'
        case _:
            return "it in quotes"


def _default(key: str, given: Given) -> str:
    default = value_of(DEFAULTS, key)
    return str(default) if given.is_text else f'"{default}"'


def shown(key: str, value: object) -> str:
    """`value` on one short line, as TOML would have it; never a secret."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
    text = printable(msgspec.json.encode(value, enc_hook=repr).decode())
    if key == SECRET or "tskey-" in text:
        return "(hidden)"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


_LONGEST_SHOWN = 100


def printable(text: str) -> str:
    """`text` on one line and harmless to a terminal: no control characters, nothing that cannot be encoded."""
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that a person who wrote `word` most likely meant."""
    # 20 ms at the first call: only somebody who made a mistake pays for it.
    import difflib  # noqa: PLC0415

    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return close[0] if close else None
