"""The example of tasks of one's own, and copies of it with something changed."""

import shutil
from pathlib import Path

from tamft.evaluation.suites import suite_folder

EXAMPLE = suite_folder() / "example" / "own_tasks.yaml"


def altered(folder: Path, old: str = "", new: str = "", **files: str) -> str:
    """A copy of the example in which one line of YAML, or whole files, are other ones."""
    target = folder / "example"
    shutil.copytree(EXAMPLE.parent, target, dirs_exist_ok=True)
    suite = target / "own_tasks.yaml"
    assert old in suite.read_text()
    suite.write_text(suite.read_text().replace(old, new))
    for name, text in files.items():
        (target / name).write_text(text)
    return str(suite)
