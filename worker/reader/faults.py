"""Why a file is not read, in words that the server knows."""


class BombError(Exception):
    """The file unpacks to more than is allowed."""
