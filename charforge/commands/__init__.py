"""One module per group of commands. Each command is a function of the parsed arguments that returns an exit status."""
