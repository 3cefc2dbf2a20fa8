# Every task says whose it is and who pays for it.
package tarn

deny contains violation if {
	input.task
	some name in data.required_annotations
	object.get(input.task.annotations, name, "") == ""
	violation := {
		"code": "ANNOTATION_MISSING",
		"severity": "low",
		"message": sprintf("the task lacks the annotation %q; add it to its annotations", [name]),
	}
}

# Recorded, but not refused.
warn contains violation if {
	input.task.priority == "critical"
	not "operator" in input.roles
	violation := {
		"code": "CRITICAL_BY_DEVELOPER",
		"severity": "critical",
		"message": sprintf("%s submitted a critical task and is no operator", [input.principal]),
	}
}
