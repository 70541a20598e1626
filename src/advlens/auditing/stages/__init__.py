"""The analyses of an audit, a file or folder each: what it streams over, and what it writes.

Each defines `stages(subject, settings)`. A new one is a new file here.
"""
