"""cleanlab over given vectors, in a separate process: `python labels.py FOLDER` prints one JSON line. Imports nothing of ours.

FOLDER has vectors.npy and labels.npy (whole numbers). It gets scores.npy, in which a higher score means a less likely label (one minus
cleanlab's self-confidence), and issues.npy, the mask of `find_label_issues` with its defaults. The probabilities come from scikit-learn's
logistic regression in five stratified folds, as in cleanlab's tutorials.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_self_confidence_for_each_label
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict


def main() -> None:
    folder = Path(sys.argv[1])
    vectors, labels = np.load(folder / "vectors.npy"), np.load(folder / "labels.npy")
    warnings.simplefilter("ignore")
    before, start = _cpu(), time.perf_counter()
    model, folds = LogisticRegression(C=10, max_iter=200), StratifiedKFold(5, shuffle=True, random_state=0)
    chances = cross_val_predict(model, vectors, labels, cv=folds, method="predict_proba")
    np.save(folder / "scores.npy", 1 - get_self_confidence_for_each_label(labels, chances))
    np.save(folder / "issues.npy", find_label_issues(labels, chances, n_jobs=1))
    print(json.dumps({"cpu": _cpu() - before, "wall": time.perf_counter() - start}))


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
