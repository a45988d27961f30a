"""Recipes as modules: a test of the program itself, without ten seconds of imports for each."""

import importlib.util
import sys
from types import ModuleType

from tamft.train import shipped


def load_recipe(name: str) -> ModuleType:
    """The recipe's module; its `main` is not run."""
    module_name = f"recipe_{name}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, shipped.find_recipe(name))
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[module_name]
