"""Where the time of one program goes."""
