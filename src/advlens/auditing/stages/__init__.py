"""The analyses of an audit: each says what it streams over, and what it writes.

A new one is a new module with a class like those of `accuracy` and `neurons`, added to the list in
`auditing/choices.py`.
"""
