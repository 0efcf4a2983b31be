"""The command line: `main` finds the command. Each has a file with HELP, `add_arguments(parser)` and `run(args)`."""
