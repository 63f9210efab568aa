"""A server for tests that speaks OMERO's real wire protocol (Ice 3.6, Glacier2, omero.api) over TLS, TCP and websockets.

It is a stand-in: what clients send is checked strictly, what a real server would answer is imitated as far as its
interfaces and the mapping facts inside omero-py tell. It proves nothing about Hibernate, Bio-Formats or Postgres.
`running.py` starts it; every other module runs inside its own process (`python -m tests.omero_server`).
"""
