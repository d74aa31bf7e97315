"""Everything measured on an exported file: gradients, attacks, Classmap, thresholds, evaluation, report. Never torch.

The tour: `graphs` reads the file, `gradients` differentiates it, `objectives` say what is ascended, `attacks` ascend,
`threats` say what each attacker may see, `evaluation` runs them on one guard and `pools` on several. `results` keep
what was found, `sanity` doubts it, `findings` say what it allows to be said, `report` and `comparing` show it.
`classmap` and `thresholds` set the rule, `rules` and `stamping` write it, `quantization` makes the file small;
`studies` measured what was to be chosen. The commands are `cli` and the modules that end in ``_command``.
"""
