"""How the files of a set may be packed: archives, tables, databases, named arrays, plain bytes.

Each module knows one kind and hands on names and contents, or arrays; what they mean is decided in
`data`: `folder`, `arrays`, `labels`, `splits`.
"""
