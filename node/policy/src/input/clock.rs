//! A time as people say it.

use serde::{Deserialize, Serialize};

/// A time in UTC, taken apart, so that policies need no calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Year, such as 2026.
    pub year: u32,
    /// Month, from 1.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Day of the week by ISO 8601: 1 is Monday, 7 is Sunday.
    pub weekday: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
}

impl Clock {
    /// Takes milliseconds since the Unix epoch apart.
    ///
    /// The date follows from the number of days by Howard Hinnant's `civil_from_days` ("chrono-compatible low-level date algorithms"):
    /// eras of 400 years, and years that begin in March, so that the leap day is the last.
    pub fn at(time_ms: u64) -> Self {
        let minutes = time_ms / 60_000;
        let days = minutes / (24 * 60);
        // Day 0 of the algorithm is 1 March of the year 0.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        Self {
            year: u32::try_from(year).unwrap_or(u32::MAX),
            month: small(month),
            day: small(day),
            // 1 January 1970 was a Thursday.
            weekday: small((days + 3) % 7 + 1),
            hour: small(minutes / 60 % 24),
            minute: small(minutes % 60),
        }
    }
}

fn small(value: u64) -> u8 {
    u8::try_from(value).expect("parts of a date are below 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let parts = |time_ms| {
            let Clock { year, month, day, weekday, hour, minute } = Clock::at(time_ms);
            (year, month, day, weekday, hour, minute)
        };
        assert_eq!(parts(0), (1970, 1, 1, 4, 0, 0));
        assert_eq!(parts(951_827_696_000), (2000, 2, 29, 2, 12, 34));
        assert_eq!(parts(1_772_323_199_999), (2026, 2, 28, 6, 23, 59));
        assert_eq!(parts(1_772_323_200_000), (2026, 3, 1, 7, 0, 0));
        assert_eq!(parts(253_402_300_799_999), (9999, 12, 31, 5, 23, 59));
        // Far beyond what the machine's clock can say, but no reason to panic.
        assert_eq!(Clock::at(u64::MAX).year, 584_556_019);
    }
}
