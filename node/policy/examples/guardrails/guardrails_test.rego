package tarn_test

import data.tarn

# Tuesday, ten o'clock.
day := {"year": 2026, "month": 3, "day": 3, "weekday": 2, "hour": 10, "minute": 0}

sunday := object.union(day, {"weekday": 7})

night := object.union(day, {"hour": 22})

good_task := {
	"queue": "training",
	"priority": "normal",
	"requires": ["gpu"],
	"annotations": {"team": "vision", "cost-center": "17"},
	"attempt_timeout_ms": 3600000,
}

request(changes) := object.union(
	{
		"principal": "user/ann",
		"roles": ["developer"],
		"verb": "create",
		"resource": {"kind": "task", "name": ""},
		"environment": "prod",
		"task": good_task,
		"cluster": {"clock": day},
	},
	changes,
)

codes(set_of_violations) := {violation.code | some violation in set_of_violations}

test_a_good_task_passes if count(tarn.deny) == 0 with input as request({})

test_gpus_are_for_their_teams if {
	codes(tarn.deny) == {"GPU_NOT_YOURS"} with input as request({"principal": "user/max"})
}

test_without_gpus_anyone_may if {
	plain := object.union(good_task, {"requires": []})
	count(tarn.deny) == 0 with input as request({"principal": "user/max", "task": plain})
}

test_long_attempts_on_gpus_are_refused if {
	long := object.union(good_task, {"attempt_timeout_ms": 14400001})
	codes(tarn.deny) == {"GPU_TOO_LONG"} with input as request({"task": long})
}

test_annotations_are_required if {
	bare := object.union(good_task, {"annotations": {"team": ""}})
	codes(tarn.deny) == {"ANNOTATION_MISSING"} with input as request({"task": bare})
}

test_developers_rest_on_sundays if {
	codes(tarn.deny) == {"OUT_OF_HOURS"} with input as request({"cluster": {"clock": sunday}})
}

test_developers_rest_at_night if {
	codes(tarn.deny) == {"OUT_OF_HOURS"} with input as request({"cluster": {"clock": night}})
}

test_on_call_works_at_night if {
	count(tarn.deny) == 0 with input as request({"principal": "user/bob", "cluster": {"clock": night}})
}

test_operators_work_at_night if {
	count(tarn.deny) == 0 with input as request({"roles": ["developer", "operator"], "cluster": {"clock": night}})
}

test_reading_is_never_out_of_hours if {
	count(tarn.deny) == 0 with input as request({"verb": "read", "task": null, "cluster": {"clock": night}})
}

test_other_commands_need_no_annotations if {
	count(tarn.deny) == 0 with input as request({"resource": {"kind": "queue", "name": "x"}, "task": null})
}

test_critical_tasks_of_developers_are_recorded if {
	critical := object.union(good_task, {"priority": "critical"})
	codes(tarn.warn) == {"CRITICAL_BY_DEVELOPER"} with input as request({"task": critical})
	count(tarn.deny) == 0 with input as request({"task": critical})
}
