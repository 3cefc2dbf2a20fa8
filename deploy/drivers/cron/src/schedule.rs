//! Times as cron writes them, in UTC: POSIX crontab(5)'s five fields, with steps, names and the usual short forms.

/// Minutes at which something is due. Each set is bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where both days of the month and of the week are named, either will do; where one is `*`, the other decides.
    any_day: bool,
    any_weekday: bool,
}

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
/// Every date that there is comes within eight years: a 29th of February may be that far away, when a century is in between.
const DAYS_AHEAD: u64 = 8 * 366 + 1;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One field: its name, its lowest and highest number, and names for numbers from the lowest on.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, names: &[] },
    Field { name: "hour", low: 0, high: 23, names: &[] },
    Field { name: "day of the month", low: 1, high: 31, names: &[] },
    Field { name: "month", low: 1, high: 12, names: &MONTHS },
    // Sunday is 0 and 7.
    Field { name: "day of the week", low: 0, high: 7, names: &WEEKDAYS },
];

impl Schedule {
    /// Reads one. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let whole = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let parts: Vec<&str> = whole.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(format!("{text:?} has {} fields: a schedule has five", parts.len()));
        };
        let set = |place: usize, part: &str| FIELDS[place].parse(part).map_err(|why| format!("{text:?}: {why}"));
        let weekdays = set(4, weekday)?;
        let schedule = Self {
            minutes: set(0, minute)?,
            hours: set(1, hour)?,
            days: set(2, day)?,
            months: set(3, month)?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            any_day: day.starts_with('*'),
            any_weekday: weekday.starts_with('*'),
        };
        match schedule.after(0) {
            Some(_) => Ok(schedule),
            None => Err(format!("{text:?} never comes: there is no such date")),
        }
    }

    /// The first time after this one, both in milliseconds since the Unix epoch; `None` if there is none.
    pub fn after(&self, time_ms: u64) -> Option<u64> {
        let start = (time_ms / MINUTE_MS).checked_add(1)? * MINUTE_MS;
        let first_day = start / DAY_MS;
        (first_day..first_day + DAYS_AHEAD).filter(|day| self.is_day(*day)).find_map(|day| {
            let from = if day == first_day { (start % DAY_MS) / MINUTE_MS } else { 0 };
            let minute = (from..24 * 60).find(|minute| self.hours & 1 << (minute / 60) != 0 && self.minutes & 1 << (minute % 60) != 0)?;
            Some(day * DAY_MS + minute * MINUTE_MS)
        })
    }

    fn is_day(&self, day: u64) -> bool {
        let (_, month, of_month) = date(day);
        // The Unix epoch began on a Thursday.
        let weekday = (day + 4) % 7;
        let by_month = self.days & 1 << of_month != 0;
        let by_week = self.weekdays & 1 << weekday != 0;
        let fits = match (self.any_day, self.any_weekday) {
            (false, false) => by_month || by_week,
            _ => by_month && by_week,
        };
        self.months & 1 << month != 0 && fits
    }
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |set, part| Ok(set | self.part(part)?))
    }

    /// `*`, `5`, `1-5`, each with a step perhaps.
    fn part(&self, text: &str) -> Result<u64, String> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        let step = match step {
            None => 1,
            Some(step) => step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(|| self.wrong(text))?,
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (self.low, if self.high == 7 { 6 } else { self.high }),
            Some((low, high)) => (self.number(low)?, self.number(high)?),
            None => {
                let low = self.number(range)?;
                (low, if text.contains('/') { self.high } else { low })
            }
        };
        if low > high {
            return Err(self.wrong(text));
        }
        Ok((low..=high).step_by(step as usize).fold(0, |set, number| set | 1 << number))
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(place) = self.names.iter().position(|name| *name == lower) {
            return Ok(self.low + place as u32);
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && (self.low..=self.high).contains(number));
        number.ok_or_else(|| self.wrong(text))
    }

    fn wrong(&self, text: &str) -> String {
        format!("{text:?} is no {} (from {} to {})", self.name, self.low, self.high)
    }
}

/// Year, month and day of the month of a day since the Unix epoch, by the Gregorian calendar: years are counted from March, so that the day
/// that comes and goes is the last of its year.
fn date(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A time as RFC 3339 writes it, to the minute.
pub fn written(time_ms: u64) -> String {
    let (year, month, day) = date(time_ms / DAY_MS);
    let minute = (time_ms % DAY_MS) / MINUTE_MS;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}Z", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `written`'s form.
    fn ms(text: &str) -> u64 {
        (0..60_000).map(|day| day * DAY_MS).find(|day| written(*day)[..10] == text[..10]).unwrap()
            + text[11..13].parse::<u64>().unwrap() * 60 * MINUTE_MS
            + text[14..16].parse::<u64>().unwrap() * MINUTE_MS
    }

    fn times(schedule: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let times = std::iter::successors(schedule.after(ms(from)), |at| schedule.after(*at));
        times.take(count).map(written).collect()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (day, text) in [(0, "1970-01-01"), (58, "1970-02-28"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_779, "2026-11-22")] {
            assert_eq!(written(day * DAY_MS), format!("{text}T00:00Z"));
        }
    }

    #[test]
    fn times_come_in_order_and_never_the_one_that_is_asked_from() {
        assert_eq!(times("* * * * *", "2026-11-22T23:58Z", 3), ["2026-11-22T23:59Z", "2026-11-23T00:00Z", "2026-11-23T00:01Z"]);
        assert_eq!(times("*/20 3 * * *", "2026-11-22T03:20Z", 3), ["2026-11-22T03:40Z", "2026-11-23T03:00Z", "2026-11-23T03:20Z"]);
        assert_eq!(times("30 6 * * mon-fri", "2026-11-20T06:30Z", 2), ["2026-11-23T06:30Z", "2026-11-24T06:30Z"]);
        assert_eq!(times("0 0 29 2 *", "2096-03-01T00:00Z", 1), ["2104-02-29T00:00Z"]);
        assert_eq!(times("0 12 1,15 jan,JUL *", "2026-01-02T00:00Z", 3), ["2026-01-15T12:00Z", "2026-07-01T12:00Z", "2026-07-15T12:00Z"]);
        assert_eq!(times("@weekly", "2026-11-22T00:00Z", 1), ["2026-11-29T00:00Z"]);
        assert_eq!(
            times("5/30 0-2/2 * * *", "2026-11-22T00:00Z", 4),
            ["2026-11-22T00:05Z", "2026-11-22T00:35Z", "2026-11-22T02:05Z", "2026-11-22T02:35Z"]
        );
    }

    #[test]
    fn of_two_kinds_of_days_either_will_do() {
        assert_eq!(times("0 0 13 * fri", "2026-11-01T00:00Z", 3), ["2026-11-06T00:00Z", "2026-11-13T00:00Z", "2026-11-20T00:00Z"]);
        assert_eq!(times("0 0 * * 7", "2026-11-22T00:00Z", 1), ["2026-11-29T00:00Z"]);
        assert_eq!(times("0 0 1 * *", "2026-11-22T00:00Z", 1), ["2026-12-01T00:00Z"]);
    }

    #[test]
    fn nonsense_is_refused_with_what_is_wrong() {
        for (text, said) in [
            ("", "five"),
            ("* * * *", "five"),
            ("* * * * * *", "five"),
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of the month"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "day of the week"),
            ("*/0 * * * *", "minute"),
            ("5-1 * * * *", "minute"),
            ("+5 * * * *", "minute"),
            ("1,,2 * * * *", "minute"),
            ("0 0 30 feb *", "never"),
            ("@often", "five"),
        ] {
            let error = Schedule::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
