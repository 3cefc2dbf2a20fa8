//! Figures, times and values as people read them.

use serde_json::Value;

use crate::figures::Spread;

/// Text as HTML shows it.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A moment in RFC 3339, as people read it.
pub fn moment(text: &str) -> String {
    match text.strip_suffix('Z') {
        Some(utc) => utc.replace('T', " ") + " UTC",
        None => text.to_owned(),
    }
}

/// What a nemesis did, as words: names and values without the marks of JSON.
pub fn words(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let named = |(name, value): (&String, &Value)| {
                let name = name.replace('_', " ");
                match value {
                    Value::Object(_) => format!("{name} ({})", words(value)),
                    Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                        let items: Vec<String> = items.iter().map(|item| format!("({})", words(item))).collect();
                        format!("{name} {}", items.join(", "))
                    }
                    _ => format!("{name} {}", words(value)),
                }
            };
            fields.iter().map(named).collect::<Vec<_>>().join("; ")
        }
        Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// How times are spread, in HTML: each figure with its name.
pub fn spread(spread: &Spread) -> String {
    let named = |ms: f64, name: &str| format!("<span>{} <small>{name}</small></span>", took(ms));
    // Of a few times the 99th percentile is the longest, and of one all are the same.
    match spread.count {
        0 => "–".to_owned(),
        1 => took(spread.max_ms),
        2..100 => named(spread.median_ms, "median") + &named(spread.max_ms, "longest"),
        _ => named(spread.median_ms, "median") + &named(spread.p99_ms, "99th percentile") + &named(spread.max_ms, "longest"),
    }
}

/// A time in milliseconds with a unit that keeps it short.
pub fn took(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 100_000.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} s", ms / 1e3),
    }
}

/// A number with a comma after each thousand.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!((thousands(7), thousands(1_234), thousands(1_000_000)), ("7".into(), "1,234".into(), "1,000,000".into()));
        assert_eq!((took(0.44), took(443.0), took(1_500.0)), ("0.4 ms".into(), "443 ms".into(), "1.5 s".into()));
        assert_eq!(moment("2026-11-21T11:04:56Z"), "2026-11-21 11:04:56 UTC");
        assert_eq!(escaped("<a b=\"c\">&"), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }

    #[test]
    fn faults_are_told_in_words() {
        let told = |what: Value| words(&what);
        assert_eq!(told(json!({"killed": [1, 2], "size": "all"})), "killed 1, 2; size all");
        assert_eq!(
            told(json!({"rates": [[3, 0.9338]], "ill": [{"disk": {"sync_ms": 50}, "node": 3}]})),
            "ill (disk (sync ms 50); node 3); rates (3, 0.934)"
        );
        assert_eq!(told(json!({"to": null})), "to –");
    }

    #[test]
    fn times_are_named_and_few_are_not_told_thrice() {
        let few = |times: &[u64]| spread(&Spread::of(times.to_vec()));
        assert_eq!((few(&[]), few(&[7_000_000])), ("–".to_owned(), "7.0 ms".to_owned()));
        assert!(!few(&[1, 2]).contains("99th") && few(&[1, 2]).contains("median"));
        assert!(few(&[1; 100]).contains("99th percentile"));
    }
}
