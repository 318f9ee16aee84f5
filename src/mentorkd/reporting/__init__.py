"""The report: `build_results` computes, `write_report` renders; `Results` (results.json) is all that passes between."""

from __future__ import annotations

from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs, StageCost, TaskInfo
from mentorkd.reporting.schema import Results
from mentorkd.reporting.schema_details import TeacherAccount
from mentorkd.reporting.tables import summary_rows
from mentorkd.reporting.views import teacher_rows
from mentorkd.reporting.write import read_results, write_report

__all__ = [
    "LearnerInfo",
    "ReportInputs",
    "Results",
    "StageCost",
    "TaskInfo",
    "TeacherAccount",
    "build_results",
    "read_results",
    "summary_rows",
    "teacher_rows",
    "write_report",
]
