"""Functions that tasks may name: how a user marks them, how a worker finds and calls them."""

from agents_io.protocols.functions.catalogue import FunctionCall, FunctionsError, current_call, function

__all__ = ["FunctionCall", "FunctionsError", "current_call", "function"]
