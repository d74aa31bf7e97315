"""Everything measured on an exported file: gradients, attacks, Classmap, thresholds, evaluation, report. Never torch.

The tour: `gradients` differentiates the file, `attacks` use it, `threats` say what each attacker may see, `evaluation`
runs them, `report` shows the outcome; `classmap` and `thresholds` set the rule, `rules` and `stamping` write it.
"""
