//! Durations (istio's `ValidateDuration`).

use std::time::Duration;

use super::problem::{Cause, Problem};
use crate::kinds::Span;

/// At least a millisecond, and whole ones.
pub(super) fn duration(at: impl Into<String>, span: Option<Span>, out: &mut Vec<Problem>) {
    if let Some(Span(duration)) = span
        && (duration < Duration::from_millis(1) || !duration.subsec_nanos().is_multiple_of(1_000_000))
    {
        out.push(Problem::new(at, Cause::form(format!("{duration:?}"), "at least 1ms, in whole milliseconds")));
    }
}

/// The same, or zero, which turns the timeout off.
pub(super) fn duration_or_off(at: impl Into<String>, span: Option<Span>, out: &mut Vec<Problem>) {
    duration(at, span.filter(|Span(duration)| !duration.is_zero()), out);
}
