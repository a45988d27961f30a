"""From names, suites, types and languages to ready mteb tasks."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.errors import InputError
from tamft.evaluation.suites import check_revisions, is_suite_file, read_suite

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


def get_tasks(
    tasks: Iterable["str | AbsTask"] | None = None,
    *,
    suite: str | None = None,
    languages: Sequence[str] | None = None,
    task_types: Sequence[str] | None = None,
) -> list["AbsTask"]:
    """Ready mteb tasks, in the order given.

    Args:
        tasks: mteb's names, the names of the `embedded` suite, or suite files (all their tasks); task objects pass
            through. With `suite`: only these of its tasks.
        suite: name of a suite (see `suites.suite_names`) or path of a suite's YAML file.
        languages: ISO 639-3 codes such as "eng"; only subsets whose languages are all among them are kept. Default:
            what a suite says; for a task that is named, its English subsets if it has some, otherwise all.
            `["all"]`: every subset.
        task_types: such as "STS"; only tasks of these types are kept. Without tasks and suite: all of mteb's that are
            public, of text only and not superseded.

    Raises:
        InputError: nothing chosen, nothing left, or an unknown task, suite, language, type or revision.
    """
    types = None if task_types is None else [_type(name) for name in task_types]
    if tasks is None and suite is None and types is None:
        raise InputError("say what to score: --tasks NAME [NAME …], --suite NAME or --task_types TYPE [TYPE …]")
    if suite is not None:
        chosen = _from_suite(suite, names=None if tasks is None else list(tasks), languages=languages)
    elif tasks is not None:
        chosen = _from_names(tasks, languages)
    else:
        chosen = _of_types(types or [], languages)
    if types is not None:
        there = sorted({task.metadata.type for task in chosen})
        chosen = [task for task in chosen if task.metadata.type in types]
        if not chosen:
            raise InputError(f"--task_types {' '.join(types)}: there is no such task; there are {', '.join(there)}")
    return chosen


def _from_names(names: Iterable["str | AbsTask"], languages: Sequence[str] | None) -> list["AbsTask"]:
    chosen: dict[str, AbsTask] = {}  # by name: a task given twice counts once
    for name in names:
        if not isinstance(name, str):
            found = [name]
        elif is_suite_file(name):
            found = _from_suite(name, names=None, languages=languages)
        else:
            found = [_task(name, languages=languages)]
        for task in found:
            chosen.setdefault(task.metadata.name, task)
    if not chosen:
        raise InputError("no task given: write --tasks NAME [NAME …], for example --tasks STS13")
    return list(chosen.values())


def _from_suite(
    suite: str, *, names: Sequence["str | AbsTask"] | None, languages: Sequence[str] | None
) -> list["AbsTask"]:
    content = read_suite(suite)
    entries = {str(entry["name"]): entry for entry in content["tasks"]}
    for name in entries if names is None else names:
        if name not in entries:
            raise InputError(f"suite {suite!r} has no task {name!r}; {_nearest(str(name), entries)}")
    made = {str(n): _from_entry(entries[str(n)], content["folder"]) for n in (entries if names is None else names)}
    check_revisions(suite, content, made)
    if languages is None or list(languages) == ["all"]:
        return list(made.values())
    kept = [task for task in made.values() if _keep_languages(task, languages)]
    if not kept:
        has = sorted({language for task in made.values() for language in task.languages})
        raise InputError(f"suite {suite!r} with --languages {' '.join(languages)}: nothing is left; it has {has[:12]}")
    return kept


def _from_entry(entry: dict[str, Any], folder: Path) -> "AbsTask":
    if "type" not in entry:
        return _task(
            entry["name"], languages=entry.get("languages"), subsets=entry.get("subsets"), splits=entry.get("splits")
        )
    from tamft.evaluation.own_tasks import own_task

    taken = {name.lower() for name in _known()}  # case does not tell files apart everywhere
    if str(entry["name"]).lower() in taken:
        raise InputError(f"task {entry['name']!r}: mteb or tamft has a task of this name; give yours another")
    return own_task(entry, folder)


def _keep_languages(task: "AbsTask", languages: Sequence[str]) -> bool:
    """Narrow a task to the subsets whose languages are all among `languages`; False if none is left."""
    of = task.metadata.hf_subsets_to_langscripts
    kept = [s for s in task.hf_subsets if {code.split("-")[0] for code in of[s]} <= set(languages)]
    if kept:
        task.hf_subsets = kept
    return bool(kept)


def _of_types(types: Sequence[str], languages: Sequence[str] | None) -> list["AbsTask"]:
    import mteb

    languages = languages or ["eng"]
    found = mteb.get_tasks(task_types=types, modalities=["text"], exclusive_modality_filter=True)  # type: ignore[arg-type]
    kept = [task for task in found if list(languages) == ["all"] or _keep_languages(task, languages)]
    if not kept:
        raise InputError(f"--task_types {' '.join(types)}: mteb has none with --languages {' '.join(languages)}")
    return kept


def _type(name: str) -> str:
    from mteb import TaskMetadata

    # mteb's types are a Literal; its annotation is where they can be read
    known = sorted(TaskMetadata.model_fields["type"].annotation.__args__)  # type: ignore[union-attr]
    by_lower = {k.lower(): k for k in known}
    if name.lower() not in by_lower:
        close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
        hint = f"did you mean {by_lower[close[0]]}?" if close else f"there are {', '.join(known)}"
        raise InputError(f"--task_types: unknown type {name!r}; {hint}")
    return by_lower[name.lower()]


def _known() -> list[str]:
    from mteb.get_tasks import _TASK_RENAMES, _TASKS_REGISTRY

    return [*_embedded(), *_TASKS_REGISTRY, *_TASK_RENAMES]


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

    embedded = _embedded()
    if name in embedded:
        return embedded[name]()
    if name not in _known():
        raise InputError(f"unknown task {name!r}; {_nearest(name, _known())}")
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
    if name.endswith((".yaml", ".yml")):
        return "there is no such file"
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    if not close:
        return "the names are mteb's: https://embeddings-benchmark.github.io/mteb"
    return f"did you mean {' or '.join(by_lower[c] for c in close)}?"
