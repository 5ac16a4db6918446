//! Whether what came is what was expected; the first thing that is not, said for people.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    ask::{Came, Record},
    check::{Answer, Ask, Expectation, Shares},
};

/// What does not hold; None if everything does.
pub(super) fn fault(expectation: &Expectation, came: &Came) -> Option<String> {
    match came {
        Came::Sum(sum) => {
            let Ask::Metric(metric) = &expectation.ask else { return Some("a sum, and no metric was asked for".into()) };
            if metric.at_most.is_some_and(|most| *sum > most) {
                return Some(format!("{} is {sum}, more than {:?}", metric.name, metric.at_most));
            }
            (*sum < metric.at_least).then(|| format!("{} is {sum}, not at least {}", metric.name, metric.at_least))
        }
        Came::Lines(count) => {
            let Ask::Log(log) = &expectation.ask else { return Some("lines, and no log was asked for".into()) };
            let few = *count < log.at_least || log.at_most.is_some_and(|most| *count > most);
            few.then(|| format!("{count} lines hold {:?}, not {} to {:?}", log.holding, log.at_least, log.at_most))
        }
        Came::Answers(records) => {
            let each = records.iter().enumerate().find_map(|(at, record)| Some((at, of_answer(&expectation.answer, record)?)));
            let total = records.len();
            let each = each.map(|(at, fault)| format!("answer {} of {total}: {fault}", at + 1));
            each.or_else(|| of_shares(expectation.shares.as_ref()?, records))
        }
    }
}

fn of_answer(answer: &Answer, record: &Record) -> Option<String> {
    let Answer { outcome, status, body, body_without, json, headers, at_least_ms, at_most_ms } = answer;
    let wanted = outcome.as_deref().unwrap_or("ok");
    if record.outcome != wanted {
        let error = record.error.as_deref().unwrap_or("");
        return Some(format!("outcome {}, not {wanted} {error}", record.outcome));
    }
    if let Some(status) = status.filter(|status| record.status != Some(*status)) {
        return Some(format!("status {:?}, not {status}: {}", record.status, excerpt(&record.body)));
    }
    if let Some(part) = body.as_ref().filter(|part| !record.body.contains(*part)) {
        return Some(format!("no {part:?} in the body: {}", excerpt(&record.body)));
    }
    if let Some(part) = body_without.as_ref().filter(|part| record.body.contains(*part)) {
        return Some(format!("{part:?} in the body: {}", excerpt(&record.body)));
    }
    let parsed: Value = if json.is_empty() { Value::Null } else { serde_json::from_str(&record.body).unwrap_or_default() };
    for (pointer, wanted) in json {
        let found = parsed.pointer(pointer).unwrap_or(&Value::Null);
        if found != wanted {
            return Some(format!("{pointer} is {found}, not {wanted}: {}", excerpt(&record.body)));
        }
    }
    for (name, wanted) in headers {
        match (record.headers.get(&name.to_ascii_lowercase()), wanted) {
            (None, None) => {}
            (Some(found), Some(wanted)) if found.contains(wanted.as_str()) => {}
            (found, _) => return Some(format!("header {name} is {found:?}, not {wanted:?}")),
        }
    }
    let took = record.latency_us / 1000;
    let early = at_least_ms.is_some_and(|least| took < least);
    let late = at_most_ms.is_some_and(|most| took > most);
    (early || late).then(|| format!("took {took} ms"))
}

fn of_shares(Shares { of, percent }: &Shares, records: &[Record]) -> Option<String> {
    let value = |record: &Record| match of.as_str() {
        "status" => record.status.map_or_else(|| record.outcome.clone(), |status| status.to_string()),
        pointer => {
            let parsed: Value = serde_json::from_str(&record.body).unwrap_or_default();
            parsed.pointer(pointer).map_or_else(String::new, |found| found.as_str().map_or_else(|| found.to_string(), Into::into))
        }
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        *counts.entry(value(record)).or_default() += 1;
    }
    let share = |name: &str| 100.0 * counts.get(name).copied().unwrap_or(0) as f64 / records.len().max(1) as f64;
    let off = percent.iter().find(|(name, (least, most))| !(*least..=*most).contains(&share(name)));
    off.map(|(name, (least, most))| format!("{:.0} % are {name:?}, not {least} to {most} %: {counts:?}", share(name)))
}

fn excerpt(body: &str) -> String {
    body.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectation(yaml: &str) -> Expectation {
        let head = "what: w\nfrom: a/b\nhttp: {url: 'http://x/'}\n";
        serde_saphyr::from_str(&format!("{head}{yaml}")).expect("an expectation")
    }

    fn record(status: u16, body: &str) -> Record {
        Record { outcome: "ok".into(), status: Some(status), body: body.into(), latency_us: 5000, ..Record::default() }
    }

    #[test]
    fn every_answer_counts() {
        let came = Came::Answers(vec![record(200, r#"{"a":{"v":"v1"}}"#), record(503, "no")]);
        for (yaml, holds) in [
            ("answer: {}", true),
            ("answer: {status: 200}", false),
            ("answer: {outcome: reset}", false),
            ("answer: {at-most-ms: 4}", false),
            ("answer: {headers: {x-a: null}}", true),
            ("answer: {headers: {x-a: b}}", false),
            ("shares: {of: status, percent: {'200': [40, 60], '503': [50, 50]}}", true),
            ("shares: {of: /a/v, percent: {v1: [60, 100]}}", false),
        ] {
            assert_eq!(fault(&expectation(yaml), &came).is_none(), holds, "{yaml}: {:?}", fault(&expectation(yaml), &came));
        }
        let one = Came::Answers(vec![record(200, r#"{"a":{"v":"v1"}}"#)]);
        assert_eq!(fault(&expectation("answer: {json: {/a/v: v1, /a/w: null}, body: v1, body-without: v2}"), &one), None);
        assert!(fault(&expectation("answer: {json: {/a/v: v2}}"), &one).is_some());
    }
}
