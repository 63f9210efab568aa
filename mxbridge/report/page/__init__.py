"""How a report looks: the only room that knows HTML."""
