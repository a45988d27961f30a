"""What a pickled training_args.bin says, read without importing or calling anything that it names."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

# training_args.bin has 5 kB; more than this is something else, and would only cost memory.
LARGEST = 10_000_000


class _Inert:
    """Stands for every class and function that a pickle names: keeps what it is given and does nothing."""

    args: tuple[Any, ...] = ()  # objects are made without __init__

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.state = state

    def append(self, item: Any) -> None:
        """Lists and dictionaries of a class of their own are filled through these; nobody reads them here."""

    def extend(self, items: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    """Every callable of a pickle comes through find_class: here each is a fresh class that does nothing."""

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> None:
        return None


def read_arguments(path: Path) -> dict[str, Any]:
    """TrainingArguments in `path`: plain values, and an enum's words as text. {} if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            if archive.getinfo(member).file_size > LARGEST:
                return {}
            content = _Reader(io.BytesIO(archive.read(member))).load()
    except Exception:  # noqa: BLE001 - damaged or hostile: whatever it makes the reader raise, there is nothing to learn
        return {}
    values = getattr(content, "state", None)
    return {key: _plain(value) for key, value in values.items()} if isinstance(values, dict) else {}


def _plain(value: Any) -> Any:
    """An enum's member is pickled as its class, called with the value."""
    if isinstance(value, _Inert) and len(value.args) == 1 and isinstance(value.args[0], str):
        return value.args[0]
    return value if value is None or isinstance(value, bool | int | float | str) else None
