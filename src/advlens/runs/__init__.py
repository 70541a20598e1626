"""The folder of a run: its files, record and results, and the state to continue from."""
