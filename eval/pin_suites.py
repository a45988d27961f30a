"""Write the data revisions of the installed mteb into the suites: what to run when mteb is raised.

    python eval/pin_suites.py

Prints what changed. Scores before and after such a change must not be mixed: say so in the changelog.
"""

import re
import sys
from pathlib import Path

from tamft.evaluation.suites import read_suite, revision_of, suite_folder, suite_names
from tamft.evaluation.tasks import get_tasks


def pin(text: str, name: str, revision: str) -> str:
    """The text of a suite with `revision` in the one line that is about `name`."""
    line = re.compile(
        rf"^(  - )(?:name: {re.escape(name)}|{{name: {re.escape(name)}(?:, revision: \w+)?((?:, .*)?)}})$", re.M
    )
    return line.sub(lambda found: f"{found[1]}{{name: {name}, revision: {revision}{found[2] or ''}}}", text)


def main() -> int:
    """Returns 0."""
    for suite in suite_names():
        path: Path = suite_folder() / f"{suite}.yaml"
        text = path.read_text(encoding="utf-8")
        before = {entry["name"]: entry.get("revision") for entry in read_suite(suite)["tasks"]}
        for task in get_tasks(suite=suite):
            name, revision = task.metadata.name, revision_of(task)
            if isinstance(revision, dict):  # the mean of several: one line each, below `revision:`
                for part, of_part in revision.items():
                    text = re.sub(rf"^(      {re.escape(part)}: ).*$", rf"\g<1>{of_part}", text, flags=re.M)
            else:
                text = pin(text, name, revision)
            if before[name] != revision:
                print(f"{suite}: {name}: {before[name]} -> {revision}")
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
