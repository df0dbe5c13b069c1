"""The error of everything that tests and benches need around them: brokers, jars, environments, peers."""


class RigError(Exception):
    """The rig cannot do its work; the message says what is missing or what a tool said last."""
