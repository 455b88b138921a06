"""Read untrusted YAML as plain data, and write YAML.

Tags, aliases, repeated keys, huge files and bytes that are not UTF-8 are refused with a sentence
that names the file and the line.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from gptailor.errors import ConfigError, UserError
from gptailor.files.safe_read import read_text

__all__ = ["Column", "dump_yaml", "parse_yaml", "read_yaml"]

_MAX_BYTES = 4 * 2**20  # a tailoring of 1,000 merged layers is 100 kB
_MAX_DEPTH = 40
_MAX_NODES = 50_000  # twice a tailoring of 1,000 merged layers; reading takes 40 us each
_TOO_LARGE = 2**63


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, tags and repeated keys, and with YAML 1.2's scalars."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._n_nodes = 0, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases (a few bytes can expand to gigabytes), tags and deep nesting."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # pyyaml
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*name) are not supported", event)
        if event.tag is not None:
            raise _refused(f"tags ({event.tag}) are not supported", event)
        self._n_nodes += 1
        if self._n_nodes > _MAX_NODES:
            raise _refused(f"more than {_MAX_NODES:,} keys and values", event)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _refused(f"nested deeper than {_MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a repeated key: YAML would silently keep the last value."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be a plain word", key)
            if key.value in seen:
                raise _refused(f"the key {key.value!r} appears twice", key)
            seen.add(key.value)
        return {
            self.construct_object(key): self.construct_object(item, deep=deep)
            for key, item in node.value
        }


class Column(list[Any]):
    """A list that is written with one item a line, even if it is short."""


class _Dumper(yaml.SafeDumper):
    """Block style outside, one line for a mapping or list of plain values."""

    def represent_sequence(self, tag: Any, sequence: Any, flow_style: Any = None) -> Any:
        """Keep a short list of plain values on one line."""
        plain = len(sequence) <= 8 and not any(isinstance(item, dict | list) for item in sequence)
        plain = plain and not isinstance(sequence, Column)
        return super().represent_sequence(tag, sequence, flow_style=plain)

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values again: an alias would not be read back."""
        return True


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


# YAML 1.2's core schema: in YAML 1.1 a member called `no` is false, `1:30` is 90 and 1e-3 is text;
# and no dates: no key of ours is one, and `2024-01-01` may name a folder
_WORDS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
_PlainLoader.yaml_implicit_resolvers = {}
_PlainLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
for _tag, _words, _firsts in _WORDS:
    _resolver = (f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_words})\\Z"), list(_firsts))
    _PlainLoader.add_implicit_resolver(*_resolver)
    _Dumper.add_implicit_resolver(*_resolver)  # beside YAML 1.1's: text is quoted for both


def parse_yaml(text: str, *, where: str, error_type: type[UserError] = ConfigError) -> Any:
    """Parse YAML text, which messages call `where`, into plain data.

    Raises:
        UserError: The text is not YAML, or uses what `_PlainLoader` refuses.
    """
    try:
        data = yaml.load(text, Loader=_PlainLoader)  # derives from SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = error.problem
        if problem == "but found another document":  # such as a recipe for mergekit-multi
            problem = "a second document begins (---); put the one wanted into a file of its own"
        raise error_type(f"{where}{line}: not usable as YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise error_type(f"{where}: not usable as YAML: {first}") from None
    _refuse_unusable_numbers(data, where, error_type)
    return data


def read_yaml(path: Path, *, error_type: type[UserError] = ConfigError) -> Any:
    """Read a YAML file into plain data.

    Raises:
        UserError: The file can't be read, is too large, not UTF-8 or not usable as YAML.
    """
    text = read_text(path, most=_MAX_BYTES, noun="YAML file", error_type=error_type)
    return parse_yaml(text, where=str(path), error_type=error_type)


def dump_yaml(data: Any) -> str:
    """Write plain data as YAML: block style, keys in the order given, short lists inline."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _refuse_unusable_numbers(data: Any, where: str, error_type: type[UserError]) -> None:
    pending = [("", data)]
    while pending:
        key_path, item = pending.pop()
        if isinstance(item, dict):
            pending += [(f"{key_path}.{key}".lstrip("."), value) for key, value in item.items()]
        elif isinstance(item, list):
            pending += [(f"{key_path}[{index}]", value) for index, value in enumerate(item)]
        elif isinstance(item, float) and not math.isfinite(item):
            raise error_type(f"{where}: {key_path or 'the value'} is {item}; give a finite number")
        elif isinstance(item, int) and abs(item) >= _TOO_LARGE:
            raise error_type(
                f"{where}: {key_path or 'the value'} has {len(str(item))} digits; too large"
            )


_Dumper.add_representer(Column, _Dumper.represent_list)
