"""The report: `build_results` computes, `write_report` renders; their only interface is `Results` (results.json)."""

from __future__ import annotations

from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs, StageCost, TaskInfo
from mentorkd.reporting.rows import summary_rows, teacher_rows
from mentorkd.reporting.schema import Results
from mentorkd.reporting.schema_details import TeacherAccount
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
