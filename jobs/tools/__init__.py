"""Jobs that are not steps of a night: checks, batch scoring, imports, replay, vacuum."""
