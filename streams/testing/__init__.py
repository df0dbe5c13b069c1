"""A whole pipeline in the process of your test, scripted agents of every protocol, and pytest fixtures."""
