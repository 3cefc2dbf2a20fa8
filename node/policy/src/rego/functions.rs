//! Which built-in functions policies may call.
//!
//! All are pure: the same input gives the same decision, on every node and in a replay a month later. So there is no network
//! (`http.send`), no clock (`time.now_ns`; the input carries the time), no randomness (`rand.intn`, `uuid.rfc4122`), no environment
//! (`opa.runtime`). `walk`, `print` and `trace` are left out because they put no bound on what they produce.

/// Functions that look at the kind of their argument alone.
const PLAIN: &[&str] = &["is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name"];

/// Functions that are called behind a guard that looks at their arguments first, with the number of their arguments. Even the simplest
/// prints an argument that it cannot take, so none does without.
pub(super) const GUARDED: &[(&str, u8)] = &[
    ("abs", 1),
    ("array.concat", 2),
    ("array.reverse", 1),
    ("array.slice", 3),
    ("bits.and", 2),
    ("bits.lsh", 2),
    ("bits.negate", 1),
    ("bits.or", 2),
    ("bits.rsh", 2),
    ("bits.xor", 2),
    ("ceil", 1),
    ("concat", 2),
    ("contains", 2),
    ("count", 1),
    ("endswith", 2),
    ("floor", 1),
    ("format_int", 2),
    ("glob.match", 3),
    ("glob.quote_meta", 1),
    ("indexof", 2),
    ("indexof_n", 2),
    ("intersection", 1),
    ("json.filter", 2),
    ("json.is_valid", 1),
    ("json.marshal", 1),
    ("json.remove", 2),
    ("json.unmarshal", 1),
    ("lower", 1),
    ("max", 1),
    ("min", 1),
    ("numbers.range", 2),
    ("numbers.range_step", 3),
    ("object.filter", 2),
    ("object.get", 3),
    ("object.keys", 1),
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
    ("round", 1),
    ("semver.compare", 2),
    ("semver.is_valid", 1),
    ("sort", 1),
    ("split", 2),
    ("sprintf", 2),
    ("startswith", 2),
    ("strings.any_prefix_match", 2),
    ("strings.any_suffix_match", 2),
    ("strings.count", 2),
    ("strings.replace_n", 2),
    ("strings.reverse", 1),
    ("substring", 3),
    ("sum", 1),
    ("to_number", 1),
    ("trim", 2),
    ("trim_left", 2),
    ("trim_prefix", 2),
    ("trim_right", 2),
    ("trim_space", 1),
    ("trim_suffix", 2),
    ("union", 1),
    ("units.parse", 1),
    ("units.parse_bytes", 1),
    ("upper", 1),
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
        _ if name.starts_with("rand.") || name.starts_with("uuid.") => "; decisions must come out the same when they are replayed",
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
        for name in ["http.send", "opa.runtime", "time.now_ns", "uuid.rfc4122", "net.lookup_ip_addr"] {
            assert!(!BUILTINS.contains_key(name), "{name}");
            assert!(!is_allowed(name), "{name}");
        }
        // The interpreter's standard feature brings this one; the list does not.
        assert!(!is_allowed("rand.intn"));
    }
}
