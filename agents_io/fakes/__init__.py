"""What scripted test agents of several protocols share: the script of `agents_io/fakes/http.py` in each protocol's
form.
"""
