"""The one exception for what a user can mend; programs print its message as a sentence and stop."""


class InputError(ValueError):
    """Something that was given is missing, broken or does not fit; the message says what, where and what to do."""

    def __init__(self, message: str) -> None:
        # a DataLoader's worker passes an error on by making another one from its printed traceback
        super().__init__(message.rsplit("InputError: ", 1)[-1].strip() if "Original Traceback" in message else message)
