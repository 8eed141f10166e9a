"""What `dynasor batch` is made of, in the order a line takes: from the input file to the server, and into the results.

`input_file` reads lines and tells them apart, `line_shape` and `lines` turn one into a query, `stream` asks the server,
`results` makes an output line of each answer, `result_file` keeps those safe, `totals` and `display` say how far it is.
"""
