"""Generated confidence streams with known changes, and each detector's results on them: `parallax bench detect`."""
