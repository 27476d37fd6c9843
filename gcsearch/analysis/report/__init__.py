"""The report of a study or an ablation: one HTML page that needs nothing else, and its figures and tables as files.

Everything is computed from the ledger and the sample grids. The page has no script and loads nothing; all text passes
through the template's escaping, since names and error messages come from anywhere.
"""

from gcsearch.analysis.report.ablation_page import write_ablation_report
from gcsearch.analysis.report.attached import report_files
from gcsearch.analysis.report.page import write_report
from gcsearch.analysis.report.parts import PAGE, Written

__all__ = ["PAGE", "Written", "report_files", "write_ablation_report", "write_report"]
