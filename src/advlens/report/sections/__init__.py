"""The sections of the report, a file or folder each, made from the tables of a run.

Each defines `section(results)`, which returns nothing where its tables are absent. A new one is a
new file here.
"""
