# Tasks that need a GPU come from a team that has some, and do not hold one for longer than agreed.
package tarn

import data.gpu

needs_gpu if {
	some label in input.task.requires
	startswith(label, "gpu")
}

gpu_teams contains team if {
	some team, members in gpu.teams
	input.principal in members
}

deny contains violation if {
	needs_gpu
	count(gpu_teams) == 0
	violation := {
		"code": "GPU_NOT_YOURS",
		"severity": "high",
		"message": sprintf("%s is in no team that has GPUs; ask for it to be added to data.gpu.teams", [input.principal]),
	}
}

deny contains violation if {
	needs_gpu
	input.task.attempt_timeout_ms > gpu.longest_attempt_ms
	violation := {
		"code": "GPU_TOO_LONG",
		"message": sprintf("an attempt on a GPU may take %d ms; set attempt_timeout_ms lower", [gpu.longest_attempt_ms]),
	}
}
