"""The wire contracts between the processes and with the outside: generated from `protos/`.

`protos/generate.py` writes every file here; none is edited. Servicers and clients import the messages and stubs; the
domain packages do not know them.
"""
