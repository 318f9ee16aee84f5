"""The report: `build_results` computes, `write_report` renders; their only interface is `Results` (results.json)."""
