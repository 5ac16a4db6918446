//! Durations as the Gateway API writes them (GEP-2257).

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// One to four numbers of at most five digits with `h`, `m`, `s` or `ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteDuration(pub Duration);

impl RouteDuration {
    pub fn parse(text: &str) -> Option<Self> {
        let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = rest[..digits].parse().ok().filter(|_| (1..=5).contains(&digits))?;
            let unit = &rest[digits..];
            let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
            total += match &unit[..end] {
                "h" => Duration::from_secs(number * 3600),
                "m" => Duration::from_secs(number * 60),
                "s" => Duration::from_secs(number),
                "ms" => Duration::from_millis(number),
                _ => return None,
            };
            rest = &unit[end..];
            parts += 1;
        }
        (1..=4).contains(&parts).then_some(Self(total))
    }

    /// None: zero, which turns a timeout off.
    pub fn limit(self) -> Option<Duration> {
        Some(self.0).filter(|duration| !duration.is_zero())
    }
}

impl<'de> Deserialize<'de> for RouteDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom(format_args!("{text:?} is not a duration such as 10s, 1m30s, 250ms (GEP-2257)")))
    }
}
