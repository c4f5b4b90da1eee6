"""From measurements of candidates to rules: who takes part, what is measured next, what is proved, what it is worth."""
