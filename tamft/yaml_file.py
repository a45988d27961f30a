"""YAML files that people write or pass around: plain values, and no more memory than the file has bytes."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from tamft.errors import InputError

LARGEST = 200_000  # bytes; the largest config that is shipped has 2 kB
DEEPEST = 50  # brackets in brackets: PyYAML's time grows with their square


def read_yaml(path: Path, label: str | None = None) -> Any:
    """The content of `path`. Tags that would make Python objects are errors, and so are aliases.

    Nine levels of nine aliases each are a gigabyte as soon as somebody writes them out, and no config needs them.

    Args:
        label: what the file is called in messages; its path by default.

    Raises InputError, with the line where there is one.
    """
    label = label or str(path)
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{label}: has {path.stat().st_size} bytes; a config has at most {LARGEST}")
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise InputError(f"{label}: lists within lists, {DEEPEST} deep; a config has no use for that")
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise InputError(f"{label}, line {line}: the alias *{event.anchor} is not read; write its value there")
        return yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{label}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{label}{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # the date 2026-99-99; a thousand brackets
        raise InputError(f"{label}: not valid YAML: {' '.join(str(error).split())}") from error


def expand(text: str, label: str) -> str:
    """`${DATA}/pairs.jsonl` with the variables of the environment: files that people share name no machine's folders.

    Raises InputError for a variable that is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise InputError(f"{label}: {text}: the environment variable {name} is not set; export {name}=FOLDER")
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", value, text)
