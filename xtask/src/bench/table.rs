//! The figures for people: medians, ratios, budgets.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    budget::{self, Budget},
    sample::{Metric, Samples, figure},
    setup::Variant,
};

/// One figure of one row.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    row: &'static str,
    metric: Metric,
    medians: BTreeMap<Variant, f64>,
    over_no_mesh: Option<f64>,
    over_envoy: Option<f64>,
    budget: Option<String>,
    met: Option<bool>,
}

pub(super) fn lines(samples: &Samples) -> Vec<Line> {
    let line = |(row, metric, medians): (&'static str, Metric, BTreeMap<Variant, f64>)| {
        let over = |other| Some(medians.get(&Variant::Keelson)? / medians.get(&other)?);
        let budget = budget::of(row, metric);
        Line {
            row,
            metric,
            over_no_mesh: over(Variant::None),
            over_envoy: over(Variant::Envoy),
            budget: budget.map(Budget::text),
            met: budget.and_then(|budget| budget.met(&medians)),
            medians,
        }
    };
    samples.medians().into_iter().map(line).collect()
}

/// A table in Markdown, aligned for reading as it is.
pub(super) fn render(lines: &[Line], variants: &[Variant]) -> String {
    let mut head = vec!["what".to_owned(), "unit".to_owned()];
    head.extend(variants.iter().map(|variant| variant.text().to_owned()));
    head.extend(["× no mesh", "× Envoy", "budget", "verdict"].map(str::to_owned));
    let mut cells = vec![head];
    let mut last = "";
    for line in lines {
        let number = |value: Option<f64>| value.map(figure).unwrap_or_default();
        let mut row = vec![if line.row == last { String::new() } else { line.row.to_owned() }, line.metric.unit().to_owned()];
        row.extend(variants.iter().map(|variant| number(line.medians.get(variant).copied())));
        row.extend([number(line.over_no_mesh), number(line.over_envoy), line.budget.clone().unwrap_or_default()]);
        row.push(line.met.map_or("", |met| if met { "met" } else { "missed" }).to_owned());
        cells.push(row);
        last = line.row;
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
    let numbers = 2..2 + variants.len() + 2;
    let mut text = String::new();
    for (index, row) in cells.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text += &if numbers.contains(&column) { format!("| {cell:>width$} ") } else { format!("| {cell:<width$} ") };
        }
        text += "|\n";
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let end = if numbers.contains(&column) { ":" } else { "-" };
                text += &format!("| {}{end} ", "-".repeat(width - 1));
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::sample::{Reading, Sample},
        *,
    };

    #[test]
    fn the_table_shows_ratios_and_verdicts() {
        let mut samples = Samples::default();
        for (variant, value) in [(Variant::None, 40.0), (Variant::Keelson, 120.0), (Variant::Envoy, 160.0)] {
            samples.extend([Sample::new(1, "1 B, other node", variant, Reading { metric: Metric::P50, value })]);
        }
        let lines = lines(&samples);
        assert_eq!(
            render(&lines, &Variant::ALL),
            "\
| what            | unit   | no mesh | Keelson | Envoy | × no mesh | × Envoy | budget         | verdict |
| --------------- | ------ | ------: | ------: | ----: | --------: | ------: | -------------- | ------- |
| 1 B, other node | µs p50 |    40.0 |     120 |   160 |      3.00 |   0.750 | ≤ no mesh + 90 | met     |
"
        );
    }
}
