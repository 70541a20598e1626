"""The analyses of an audit, a file or folder each: what each streams over, and what it writes.

Each defines `stages(subject, settings)`. To add an analysis, add a file here.
"""
