"""Live programs as traces: `trace_lines` makes a line of a program's log, `recorder` runs the programs."""
