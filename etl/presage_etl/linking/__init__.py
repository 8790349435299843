"""Which person an imaging study belongs to: evidence, decision, and the rows that say so.

`mapping` reads the operator's crosswalk, `evidence` asks the database, `decide` is pure, `rows` makes the CDM rows,
`linking` puts them in order. A study that cannot be linked with certainty rests in quarantine with its reason.
"""
