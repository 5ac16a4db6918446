//! Tables as `istioctl` prints them: capitals above, columns of text, no lines.

use std::time::Duration;

use comfy_table::{Color, ContentArrangement, presets};

/// What a cell's colour says; the text says it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }

    pub(crate) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    fn styled(&self) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(printable(&self.text));
        match self.tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Doubtful => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self::new(value.to_string())
    }
}

/// An empty cell would shift the columns of whoever splits lines at spaces. What a node says can not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[derive(Debug)]
pub(crate) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn add_row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headers.len());
        self.rows.push(cells);
    }

    /// Lines that end with a newline each; nothing for a table without rows.
    pub(crate) fn render(&self, color: bool) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut table = comfy_table::Table::new();
        // Long lines stay whole: they are for `grep` and `less -S` as well.
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(self.headers.clone());
        for row in &self.rows {
            table.add_row(row.iter().map(Cell::styled));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        format!("{}\n", table.trim_fmt())
    }
}

/// Powers of 1024, three digits: `999 B`, `1.5 KiB`, `23 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// The two largest units, as `kubectl` has it: `8s`, `3m12s`, `4h5m`, `2d3h`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => two(minutes, "m", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes, "m"),
        _ => two(days, "d", hours, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10_240, "10 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn ages() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (192, "3m12s"),
            (3600, "1h"),
            (14_759, "4h5m"),
            (86_400, "1d"),
            (183_600, "2d3h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    fn sample() -> Table {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.add_row(vec!["a".into(), Cell::new("Ready").tone(Tone::Good)]);
        table.add_row(vec!["longer".into(), Cell::new("")]);
        table.add_row(vec!["e\x1b[2Jvil\n".into(), "x".into()]);
        table
    }

    #[test]
    fn columns_align_and_nothing_steers_the_terminal() {
        let text = sample().render(false);
        assert_eq!(text, "NAME        STATE\na           Ready\nlonger      -\ne\u{fffd}[2Jvil\u{fffd}   x\n");
    }

    #[test]
    fn colour_only_when_asked_for() {
        let text = sample().render(true);
        assert!(text.contains('\x1b') && text.contains("Ready"), "{text:?}");
        assert_eq!(Table::new(&["NAME"]).render(true), "");
    }
}
