# Developers change production in office hours (UTC). Whoever is on call, operators and services are not bound by them.
package tarn

changes if input.verb != "read"

office_hours if {
	clock := input.cluster.clock
	clock.weekday <= 5
	clock.hour >= data.hours.first
	clock.hour < data.hours.last
}

deny contains violation if {
	input.environment == "prod"
	changes
	"developer" in input.roles
	not "operator" in input.roles
	not input.principal in data.hours.oncall
	not office_hours
	violation := {
		"code": "OUT_OF_HOURS",
		"severity": "medium",
		"message": sprintf(
			"developers change production on weekdays from %d to %d o'clock UTC; ask whoever is on call",
			[data.hours.first, data.hours.last],
		),
	}
}
