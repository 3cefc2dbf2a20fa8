//! Which built-in functions policies may call.
//!
//! All are pure: the same input gives the same decision, on every node and in a replay a month later. So there is no network
//! (`http.send`), no clock (`time.now_ns`; the input carries the time), no randomness (`rand.intn`, `uuid.rfc4122`), no environment
//! (`opa.runtime`). `walk`, `print` and `trace` are left out because they put no bound on what they produce.

/// Functions whose work and result are linear in their arguments' own elements, so that the interpreter's clock bounds them.
const PLAIN: &[&str] = &[
    "abs",
    "array.slice",
    "bits.and",
    "bits.negate",
    "bits.or",
    "bits.xor",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "glob.quote_meta",
    "indexof",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "object.get",
    "object.keys",
    "round",
    "startswith",
    "strings.reverse",
    "substring",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "upper",
];

/// Functions that are called behind a guard that looks at their arguments first, with the number of their arguments.
pub(super) const GUARDED: &[(&str, u8)] = &[
    ("array.concat", 2),
    ("array.reverse", 1),
    ("bits.lsh", 2),
    ("bits.rsh", 2),
    ("concat", 2),
    ("format_int", 2),
    ("glob.match", 3),
    ("indexof_n", 2),
    ("intersection", 1),
    ("json.filter", 2),
    ("json.is_valid", 1),
    ("json.marshal", 1),
    ("json.remove", 2),
    ("json.unmarshal", 1),
    ("max", 1),
    ("min", 1),
    ("numbers.range", 2),
    ("numbers.range_step", 3),
    ("object.filter", 2),
    ("object.remove", 2),
    ("object.subset", 2),
    ("object.union", 2),
    ("object.union_n", 1),
    ("product", 1),
    ("regex.find_all_string_submatch_n", 3),
    ("regex.find_n", 3),
    ("regex.is_valid", 1),
    ("regex.match", 2),
    ("regex.replace", 3),
    ("regex.split", 2),
    ("replace", 3),
    ("semver.compare", 2),
    ("semver.is_valid", 1),
    ("sort", 1),
    ("split", 2),
    ("sprintf", 2),
    ("strings.any_prefix_match", 2),
    ("strings.any_suffix_match", 2),
    ("strings.count", 2),
    ("strings.replace_n", 2),
    ("sum", 1),
    ("to_number", 1),
    ("union", 1),
    ("units.parse", 1),
    ("units.parse_bytes", 1),
];

/// Whether policies may call it.
pub(super) fn is_allowed(name: &str) -> bool {
    PLAIN.contains(&name) || GUARDED.iter().any(|(guarded, _)| *guarded == name)
}

/// Why a call of `name` is refused, in a sentence.
pub(super) fn refusal(name: &str) -> String {
    let instead = match name {
        "time.now_ns" => "; use input.cluster.time_ms or input.cluster.clock",
        "print" | "trace" => "; use `tarn policy eval` to see what a rule produces",
        "walk" => "; name the fields, or iterate with `some`",
        _ if name.starts_with("rand.") || name.starts_with("uuid.") => {
            "; decisions must come out the same when they are replayed"
        }
        _ if name.starts_with("http.") || name.starts_with("net.lookup") => "; put what it would fetch into data.json",
        _ => "",
    };
    format!("there is no function {name} for policies{instead}")
}

#[cfg(test)]
mod tests {
    use regorus::unstable::BUILTINS;

    use super::*;

    #[test]
    fn all_that_is_allowed_exists_with_that_many_arguments() {
        for name in PLAIN {
            assert!(BUILTINS.contains_key(name), "{name}");
        }
        for (name, arguments) in GUARDED {
            assert_eq!(BUILTINS.get(name).map(|(_, found)| *found), Some(*arguments), "{name}");
            assert!(!PLAIN.contains(name), "{name} is both");
        }
    }

    #[test]
    fn nothing_impure_is_even_compiled_in() {
        for name in [
            "http.send",
            "opa.runtime",
            "time.now_ns",
            "uuid.rfc4122",
            "net.lookup_ip_addr",
        ] {
            assert!(!BUILTINS.contains_key(name), "{name}");
            assert!(!is_allowed(name), "{name}");
        }
        // The interpreter's standard feature brings this one; the list does not.
        assert!(!is_allowed("rand.intn"));
    }
}
