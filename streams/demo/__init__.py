"""A demonstration of the pipeline on real input, for newcomers: `make demo` and `parallax dev`."""
