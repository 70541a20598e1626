"""A local page to look around in runs: the list, reports, comparisons, units and progress."""
