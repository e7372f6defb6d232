"""Trust in a review: what several answers mean, how often people err, how far they agree, what a judge's score is worth, and what follows.

`policy.py` resolves the answers on a row, `control.py` mixes in rows with known verdicts, `annotators.py` estimates each person's errors,
`agreement.py` Krippendorff's alpha, `calibration.py` the probability of approval by score, `certificate.py` bounds the errors among rows
that nobody read, with the methods of `bounds.py`. Every estimate has an interval.
"""
