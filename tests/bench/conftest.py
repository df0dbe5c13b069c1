"""Keeps doctest away from a script that runs in an environment of its own."""

collect_ignore = ["peers/faststream_peer.py"]
