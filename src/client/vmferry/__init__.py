"""vmferry: the client half: contract, engine, client library and command line."""
