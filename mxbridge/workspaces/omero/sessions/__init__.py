"""Who logs in where, and sessions that come and go."""
