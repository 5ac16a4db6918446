//! What node proxies count, in Prometheus' text form.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

const PORT: u16 = 15020;
const PATIENCE: Duration = Duration::from_secs(10);

/// Series that count, each with its value; others are passed over.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<(String, u64)>);

/// Labels and the values that they have to have.
pub type Filter<'a> = &'a [(&'a str, &'a str)];

impl Metrics {
    /// Of the node in whose network namespace this is called.
    pub(crate) fn fetch() -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("nobody serves metrics")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub(crate) fn add(&mut self, text: &str) {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        self.0.extend(lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        }));
    }

    /// The sum of a metric over all series with these labels.
    pub fn sum(&self, metric: &str, filter: Filter<'_>) -> u64 {
        let matches = |series: &str| {
            let Some((name, labels)) = series.split_once('{') else { return filter.is_empty() && series == metric };
            name == metric && filter.iter().all(|(name, value)| labels.contains(&format!("{name}=\"{value}\"")))
        };
        self.0.iter().filter(|(series, _)| matches(series)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_chosen_by_name_and_labels() {
        let mut metrics = Metrics::default();
        metrics.add("# HELP x\na{b=\"1\",c=\"2\"} 3\na{b=\"1\",c=\"4\"} 5\nab{b=\"1\"} 7\nplain 9\n");
        assert_eq!(metrics.sum("a", &[("b", "1")]), 8);
        assert_eq!(metrics.sum("a", &[("b", "1"), ("c", "4")]), 5);
        assert_eq!(metrics.sum("plain", &[]), 9);
    }
}
