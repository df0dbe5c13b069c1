"""Made confidence streams with known changes, and what each detector makes of them: `parallax bench detect`."""
