"""Find duplicates and leaks in Parquet parts of any number, in this process or on a Ray cluster, without a project's database.

The findings are those of `curation.dedup` and `curation.leakage` on the same rows. No task holds all rows, and no row passes through the
caller: tasks read parts and leave files. The method and its measurements are in docs/scale.md.
"""

from curation.scan.findings import FINDINGS
from curation.scan.job import ScanSettings, Suite
from curation.scan.run import LISTING, Scanned, scan
from curation.scan.workers import InProcess, connected

__all__ = ["FINDINGS", "LISTING", "InProcess", "ScanSettings", "Scanned", "Suite", "connected", "scan"]
