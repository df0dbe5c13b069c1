"""Windows of data points: sums, sketches, series, ranges, trend. Pure."""
