"""The one exception for what a user can mend; programs print its message as a sentence and stop."""


class InputError(ValueError):
    """Something that was given is missing, broken or does not fit; the message says what, where and what to do."""
