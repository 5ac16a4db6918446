//! What a command tells the person who waits for it. All of it goes to standard error, in order with the output of the
//! programs that it runs; colours and movement only on a terminal.

use std::{
    env,
    fmt::{self, Display},
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// Runs one named step under a headline, and says how long it took. An error says which step it was.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    headline(name);
    let started = Instant::now();
    let result = work();
    let took = seconds(started.elapsed());
    match &result {
        Ok(_) => eprintln!("{}", paint(GREEN, &format!("   {name}: ok, {took}"))),
        Err(_) => eprintln!("{}", paint(RED, &format!("   {name}: failed after {took}"))),
    }
    result.with_context(|| format!("step `{name}` failed"))
}

/// The headline of a step.
pub(crate) fn headline(name: &str) {
    eprintln!("{}", paint(BOLD, &format!("== {name}")));
}

/// One line about what happens now, or happened.
pub(crate) fn note(text: impl Display) {
    eprintln!("   {text}");
}

/// Shows that a long, silent piece of work is under way: moving on a terminal, one line elsewhere.
pub(crate) fn waiting<T>(text: &str, work: impl FnOnce() -> T) -> T {
    if !on_terminal() {
        note(format_args!("{text} ..."));
        return work();
    }
    let style = ProgressStyle::with_template("   {spinner} {msg} {elapsed}").expect("the template is valid");
    let bar = ProgressBar::new_spinner().with_style(style).with_message(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    let result = work();
    bar.finish_and_clear();
    result
}

/// The error of a program whose own last lines say it all: nothing is printed after them.
#[derive(Debug)]
pub(crate) struct AlreadySaid;

impl Display for AlreadySaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("see above")
    }
}

impl std::error::Error for AlreadySaid {}

/// Whether somebody watches.
pub(crate) fn on_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Prints why a command failed, cause by cause, as its last words.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    if error.is::<AlreadySaid>() {
        return ExitCode::FAILURE;
    }
    eprintln!("{}", paint(RED, &format!("error: {error}")));
    for cause in error.chain().skip(1) {
        eprintln!("  because: {}", cause.to_string().replace('\n', "\n    "));
    }
    ExitCode::FAILURE
}

const BOLD: &str = "1";
const RED: &str = "1;31";
const GREEN: &str = "32";

fn paint(colour: &str, text: &str) -> String {
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !on_terminal();
    if plain { text.to_owned() } else { format!("\x1b[{colour}m{text}\x1b[0m") }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
