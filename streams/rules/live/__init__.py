"""Rules of the live page. Pure."""
