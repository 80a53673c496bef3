"""The history of events: which events a log day has, and the bounded state from which features are computed."""
