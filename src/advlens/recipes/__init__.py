"""The packaged recipes, as TOML files, and the networks that they name."""
