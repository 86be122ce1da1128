"""The two studies of data efficiency: what is run, by which settings, with which command."""
