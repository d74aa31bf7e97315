"""The paper again: from a data set to each of its tables and figures, beside what it published.

The tour, in the order of the work: `preset` and `config` say what is done, `unit` what a piece of work is and `store`
where it is kept, `training_units`, `crafting`, `judging` and `evaluating` are the pieces, `lineup` names the networks
and `sets` the adversarial sets, `cell` is one figure of a table, the tables and figures are files of their own,
`outputs` says which piece each of them needs, and `run` does it all.
"""
