//! How heavy a value is.

use regorus::Value;

/// Bytes of a value's strings, and 16 for each value in it, or `None` as soon as that exceeds `limit`. Shared parts count each time that
/// they are reached, since whoever compares, copies or prints the value meets them each time.
pub(crate) fn weight_of(value: &Value, limit: usize) -> Option<usize> {
    let mut left = limit;
    // Not recursive: a value may nest deeper than a stack.
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        left = left.checked_sub(16)?;
        match value {
            Value::String(text) => left = left.checked_sub(text.len())?,
            // One that fits no machine word is as long as calculations made it.
            Value::Number(number) if number.as_u64().is_none() && number.as_i64().is_none() => {
                let bits = number.as_big().map_or(0, |big| big.bits());
                left = left.checked_sub(usize::try_from(bits / 8).ok()?)?;
            }
            Value::Array(items) => {
                left.checked_sub(items.len().checked_mul(16)?)?;
                waiting.extend(items.iter());
            }
            Value::Set(items) => {
                left.checked_sub(items.len().checked_mul(16)?)?;
                waiting.extend(items.iter());
            }
            Value::Object(fields) => {
                left.checked_sub(fields.len().checked_mul(32)?)?;
                waiting.extend(fields.iter().flat_map(|(key, field)| [key, field]));
            }
            Value::Number(_) | Value::Null | Value::Bool(_) | Value::Undefined => {}
        }
    }
    Some(limit - left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_counts_each_time() {
        let mut value = Value::from("x");
        for _ in 0..60 {
            value = Value::from(vec![value.clone(), value]);
        }
        assert_eq!(weight_of(&value, 1 << 20), None);
        assert_eq!(weight_of(&Value::from("four"), 100), Some(20));
        assert_eq!(weight_of(&Value::from(vec![Value::from("four"), Value::Null]), 100), Some(52));
        assert_eq!(weight_of(&Value::from("four"), 19), None);
    }

    #[test]
    fn deep_values_need_no_stack() {
        let thread = std::thread::Builder::new().stack_size(256 << 20);
        let body = || {
            let mut value = Value::Null;
            for _ in 0..100_000 {
                value = Value::from(vec![value]);
            }
            let weight = weight_of(&value, usize::MAX);
            // Dropping it does.
            drop(value);
            weight
        };
        assert_eq!(thread.spawn(body).unwrap().join().unwrap(), Some(16 * 100_001));
    }
}
