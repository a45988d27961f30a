"""Real members of transformers' OptimizerNames, so that argparse, JSON, YAML and Python all accept the names."""

from transformers.training_args import OptimizerNames

from tamft.errors import InputError

_ours: set[str] = set()


def check_free(value: str) -> None:
    """InputError if transformers already has an optimizer called `value`."""
    if value in OptimizerNames._value2member_map_ and value not in _ours:
        raise InputError(f"transformers already has an optimizer called {value!r}: register it under another name")


def add_member(value: str) -> None:
    """Make `value` a member, once. Must run before an argument parser is built: argparse freezes the choices."""
    check_free(value)
    if value in _ours:
        return
    member = str.__new__(OptimizerNames, value)
    name = value.upper().replace("-", "_").replace(".", "_")
    member._name_, member._value_, member._sort_order_ = name, value, len(OptimizerNames._member_names_)
    # As itself the member could not be unpickled where tamft was not imported: every training_args.bin holds one.
    member.__reduce_ex__ = lambda protocol: (str, (value,))
    OptimizerNames._member_names_.append(name)
    OptimizerNames._member_map_[name] = member
    OptimizerNames._value2member_map_[value] = member
    # The enum's own __setattr__ guards its members.
    type.__setattr__(OptimizerNames, name, member)
    _ours.add(value)
