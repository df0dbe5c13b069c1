"""The pipeline on real input, for people who see it for the first time: `make demo` and `parallax dev`."""
