"""Times jaxrnn and its peers side by side. No test depends on a time."""
