"""The `asyncrl` command, one module per subcommand."""
