//! Durations as Istio's objects write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time in Go's form: `10s`, `1h30m`, `1.5s`, `250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Span(#[cfg_attr(feature = "schema", schemars(with = "String"))] pub Duration);

/// More than any timeout means; sums stay far from overflow.
const TEN_YEARS: f64 = 3.2e8;

impl Span {
    /// None: not in this form, or ten years and more.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            let unit = &rest[digits..];
            let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
            seconds += number
                * match &unit[..end] {
                    "h" => 3600.0,
                    "m" => 60.0,
                    "s" => 1.0,
                    "ms" => 1e-3,
                    "us" | "µs" => 1e-6,
                    "ns" => 1e-9,
                    _ => return None,
                };
            rest = &unit[end..];
        }
        (!text.is_empty() && seconds < TEN_YEARS).then(|| Self(rounded(seconds)))
    }
}

/// To whole microseconds, so that `0.1s` is what it says.
fn rounded(seconds: f64) -> Duration {
    #[allow(clippy::cast_sign_loss, reason = "sums of parsed digits are not negative")]
    Duration::from_micros((seconds * 1e6).round() as u64)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom(format_args!("{text:?} is not a duration such as 10s, 1m30s, 250ms")))
    }
}
