"""One protocol each: from a call to what is sent, from what came to an answer. Pure."""
