"""jaxrnn against its peers, side by side in one run. Never a timed test: run it by hand."""
