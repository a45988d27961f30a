"""The one exception that means "the user can mend this": message = value, reason, cure."""


class InputError(ValueError):
    """Bad input: an option, a file, a name. Nothing was written.

    Commands print the message alone, without a traceback, and exit with code 2. A good message names the offending
    value, why it cannot be used, and what to write instead.
    """
