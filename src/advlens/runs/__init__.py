"""The folder of a run: its files, its record, its results, and what it continues from."""
