"""What a user edits: one YAML file a data set, and the typed settings that check it."""
