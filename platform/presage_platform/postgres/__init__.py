"""PostgreSQL: the embedded server, connections, bulk rows."""
