"""Jobs that are not steps of a night: log checks, batch scoring, imports, comparisons, replay and vacuum."""
