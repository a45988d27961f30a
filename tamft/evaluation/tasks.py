"""Tasks by name and suites of tasks. The names are mteb's; the suites are YAML files."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.errors import InputError
from tamft.yaml_file import read_yaml

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

ENTRY_KEYS = {"name", "revision", "languages", "subsets", "splits"}


def get_tasks(
    tasks: Iterable["str | AbsTask"] | None = None, *, suite: str | None = None, languages: Sequence[str] | None = None
) -> list["AbsTask"]:
    """Ready mteb tasks, in the order given, from their names or from a suite.

    Args:
        tasks: mteb's names or the names of the `embedded` suite; task objects pass through unchanged.
        suite: name of a suite (see `suite_names`) or path of a suite's YAML file; instead of `tasks`.
        languages: ISO 639-3 codes such as "eng"; only subsets whose languages are all among them are kept. Default:
            the English subsets of a task that has some, otherwise all its subsets. `["all"]`: every subset.

    Raises:
        InputError: neither or both of tasks and suite, or an unknown task, suite, language or revision.
    """
    if (tasks is None) == (suite is None):
        raise InputError("say what to score: either --tasks NAME [NAME …] or --suite NAME")
    if suite is not None:
        if languages is not None:
            raise InputError("--languages goes with --tasks; a suite says which languages it means")
        return [_from_entry(entry) for entry in read_suite(suite)["tasks"]]
    chosen: dict[str, AbsTask] = {}  # by name: a task given twice counts once
    for task in tasks or ():
        ready = _task(task, languages=languages) if isinstance(task, str) else task
        chosen.setdefault(ready.metadata.name, ready)
    if not chosen:
        raise InputError("no task given: write --tasks NAME [NAME …], for example --tasks STS13")
    return list(chosen.values())


def _embedded() -> dict[str, type["AbsTask"]]:
    from tamft.evaluation.embedded import TASKS

    return TASKS


def _task(
    name: str,
    *,
    languages: Sequence[str] | None = None,
    subsets: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> "AbsTask":
    import mteb
    from mteb.get_tasks import _TASK_RENAMES, _TASKS_REGISTRY

    embedded = _embedded()
    if name in embedded:
        return embedded[name]()
    known = [*embedded, *_TASKS_REGISTRY, *_TASK_RENAMES]
    if name not in known:
        raise InputError(f"unknown task {name!r}; {_nearest(name, known)}")
    options: dict[str, Any] = {"hf_subsets": subsets, "eval_splits": splits}
    if subsets is not None or languages == ["all"]:
        return mteb.get_task(name, **options)
    try:
        return mteb.get_task(name, languages=languages or ["eng"], exclusive_language_filter=True, **options)
    except ValueError as error:
        if languages is None:  # a task that has no English was named on purpose
            return mteb.get_task(name, **options)
        has = ", ".join(sorted(mteb.get_task(name).languages)[:12])
        raise InputError(f"task {name!r} with --languages {' '.join(languages)}: {error} It has: {has}") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    if Path(name).exists():
        return "this is a path: models come before --tasks"
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    if not close:
        return "the names are mteb's: https://embeddings-benchmark.github.io/mteb"
    return f"did you mean {' or '.join(by_lower[c] for c in close)}?"


# --- suites -----------------------------------------------------------------------------------------------------------


def suite_folder() -> Path:
    """Where the suites are: `eval/suites` in a checkout, package data in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_suites"
    return packaged if packaged.is_dir() else package.parent / "eval" / "suites"


def suite_names() -> list[str]:
    """Names of the suites that come with tamft."""
    return sorted(file.stem for file in suite_folder().glob("*.yaml"))


def read_suite(suite: str) -> dict[str, Any]:
    """Read and check a suite: `{name, description, tasks: [{name, revision?, languages?, subsets?, splits?}]}`.

    Raises:
        InputError: no such suite, or the file does not have that form.
    """
    if suite in suite_names():
        path = suite_folder() / f"{suite}.yaml"
    elif suite.endswith((".yaml", ".yml")) and Path(suite).is_file():
        path = Path(suite)
    else:
        raise InputError(f"unknown suite {suite!r}; there are {', '.join(suite_names())}, or give a .yaml file")
    content = read_yaml(path, f"suite {suite!r}")
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), list) or not content["tasks"]:
        raise InputError(f"suite {suite!r}: it needs `name`, `description` and a list `tasks` with at least one entry")
    unknown = set(content) - {"name", "description", "tasks"}
    if unknown:
        raise InputError(f"suite {suite!r}: unknown key {sorted(unknown)[0]!r}; there are name, description, tasks")
    for entry in content["tasks"]:
        if not isinstance(entry, dict) or "name" not in entry or set(entry) - ENTRY_KEYS:
            raise InputError(
                f"suite {suite!r}: entry {entry!r} needs `name` and may have {', '.join(sorted(ENTRY_KEYS - {'name'}))}"
            )
    return content


def _from_entry(entry: dict[str, Any]) -> "AbsTask":
    task = _task(
        entry["name"], languages=entry.get("languages"), subsets=entry.get("subsets"), splits=entry.get("splits")
    )
    wanted, revision = entry.get("revision"), task.metadata.revision
    if wanted is not None and wanted != revision:
        raise InputError(
            f"task {entry['name']!r}: the suite means revision {wanted!r} of the data, this installation has "
            f"{revision!r}; their scores must not be mixed"
        )
    return task
