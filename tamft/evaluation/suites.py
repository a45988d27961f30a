"""Suites: YAML files that name tasks, the revision of each one's data, and tasks of one's own."""

import sys
from collections import Counter
from collections.abc import Mapping
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamft.errors import InputError
from tamft.yaml_file import read_yaml

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

ENTRY_KEYS = {"name", "revision", "languages", "subsets", "splits"}  # of one of mteb's tasks


def suite_folder() -> Path:
    """Where the suites are: `eval/suites` in a checkout, package data in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_suites"
    return packaged if packaged.is_dir() else package.parent / "eval" / "suites"


def suite_names() -> list[str]:
    """Names of the suites that come with tamft."""
    return sorted(file.stem for file in suite_folder().glob("*.yaml"))


def is_suite_file(name: str) -> bool:
    """Whether a word of the command line means a suite of one's own."""
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def read_suite(suite: str) -> dict[str, Any]:
    """Read and check a suite: `{name, description, tasks, folder, shipped}`.

    `tasks` are entries `{name, revision?, languages?, subsets?, splits?}` for mteb's tasks, and those that
    `tamft.evaluation.own_tasks` describes (they have a `type`). `folder` is what their files start from.

    Raises:
        InputError: no such suite, or the file does not have that form.
    """
    shipped = suite in suite_names()
    if shipped:
        path = suite_folder() / f"{suite}.yaml"
    elif is_suite_file(suite):
        path = Path(suite)
    elif suite.endswith((".yaml", ".yml")):
        raise InputError(f"suite {suite!r}: there is no such file")
    else:
        raise InputError(f"unknown suite {suite!r}; there are {', '.join(suite_names())}, or give a .yaml file")
    content = read_yaml(path, f"suite {suite!r}")
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), list) or not content["tasks"]:
        raise InputError(f"suite {suite!r}: it needs `name`, `description` and a list `tasks` with at least one entry")
    unknown = set(content) - {"name", "description", "tasks"}
    if unknown:
        raise InputError(f"suite {suite!r}: unknown key {sorted(unknown)[0]!r}; there are name, description, tasks")
    for entry in content["tasks"]:
        if not isinstance(entry, dict) or "name" not in entry or ("type" not in entry and set(entry) - ENTRY_KEYS):
            raise InputError(
                f"suite {suite!r}: entry {entry!r} needs `name` and may have {', '.join(sorted(ENTRY_KEYS - {'name'}))}"
                "; a task of your own also has `type`"
            )
    twice = [name for name, count in Counter(str(entry["name"]) for entry in content["tasks"]).items() if count > 1]
    if twice:
        raise InputError(f"suite {suite!r}: the task {twice[0]!r} is there twice; results are kept by name")
    return {**content, "folder": path.resolve().parent, "shipped": shipped}


def check_revisions(suite: str, content: Mapping[str, Any], tasks: Mapping[str, "AbsTask"]) -> None:
    """Compare the revisions that a suite means with those that the installed mteb loads.

    A difference in one's own suite is an InputError: somebody wrote the revision down on purpose. In a suite that comes
    with tamft it is a warning on stderr: nobody can edit that, and the result files say which data they are about.
    """
    differing = []
    for entry in content["tasks"]:
        task = tasks.get(entry["name"])
        if task is None or entry.get("revision") is None or "type" in entry:
            continue
        if entry["revision"] != revision_of(task):
            differing.append(entry["name"])
            if not content["shipped"]:
                raise InputError(
                    f"task {entry['name']!r}: the suite means revision {entry['revision']!r} of the data, this "
                    f"installation has {revision_of(task)!r}; their scores must not be mixed"
                )
    if differing and parent_process() is None:  # once, not by every worker again
        import mteb

        print(
            f"suite {suite}: mteb {mteb.__version__} has another revision of the data of {len(differing)} tasks "
            f"({', '.join(differing[:3])}{' …' if len(differing) > 3 else ''}) than the suite means; their scores are "
            "not comparable with those of other installations",
            file=sys.stderr,
        )


def revision_of(task: "AbsTask") -> str | dict[str, str]:
    """The revision of a task's data; for a task that is the mean of others, theirs by name."""
    if task.is_aggregate:
        return {part.metadata.name: part.metadata.revision for part in task.metadata.tasks}  # type: ignore[attr-defined]
    return str(task.metadata.revision)
