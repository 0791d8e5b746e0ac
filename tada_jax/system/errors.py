"""The one exception that is shown to a user as a single line instead of a traceback."""


class UserError(Exception):
    """A user's mistake: its message is one line that names the culprit and the remedy."""
