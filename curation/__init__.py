"""From a brief to a signed snapshot: planning, generation, scoring, gates, review and release of training rows."""
