"""The command line: one module for each group of commands; `render` for everything that is drawn."""
