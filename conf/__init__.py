"""Configuration: one YAML file per data set, the typed settings that validate it, and contracts between packages."""
