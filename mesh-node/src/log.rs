//! The log's way out: lines are collected, and a thread of its own writes them.
//!
//! A thread that carries traffic waits neither for a system call a line nor for whoever reads standard output: where that
//! stands still, lines are lost beyond a bound, and the log says how many.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait for a reader.
const MOST: usize = 4 << 20;
/// Lines that come within this time are written together.
const GATHER: Duration = Duration::from_millis(5);
/// So long the end of the process waits for a reader.
const PATIENCE: Duration = Duration::from_secs(1);

static OUT: OnceLock<Out> = OnceLock::new();

/// Where lines are left. The clones of one lead to the same place.
#[derive(Clone)]
pub struct Out(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lost: u64,
    ended: bool,
}

/// Dropped, it lets what waits be written, within a second.
#[must_use]
pub struct Guard {
    out: Out,
    done: Receiver<()>,
}

/// Starts the thread that writes to standard output; once in a process.
pub fn start() -> io::Result<(Out, Guard)> {
    let (out, guard) = Out::to(io::stdout())?;
    Ok((OUT.get_or_init(|| out).clone(), guard))
}

/// Leaves a line, with its end, outside the form that the log has otherwise.
pub fn write_line(line: &str) {
    match OUT.get() {
        Some(out) => out.leave(line.as_bytes()),
        // Nobody is left to be told that the output is gone.
        None => drop(io::stdout().lock().write_all(line.as_bytes())),
    }
}

impl Out {
    fn to(output: impl Write + Send + 'static) -> io::Result<(Self, Guard)> {
        let out = Self(Arc::new(Shared { waiting: Mutex::default(), more: Condvar::new() }));
        let (finished, done) = channel();
        let shared = out.0.clone();
        thread::Builder::new().name("log".into()).stack_size(128 << 10).spawn(move || {
            shared.carry(output);
            drop(finished);
        })?;
        Ok((out.clone(), Guard { out, done }))
    }

    fn leave(&self, line: &[u8]) {
        let mut waiting = self.0.lock();
        if waiting.bytes.len() + line.len() > MOST {
            waiting.lost += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        self.0.more.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        loop {
            let idle = |waiting: &mut Waiting| waiting.bytes.is_empty() && !waiting.ended;
            let mut waiting = self.more.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut batch, &mut waiting.bytes);
            let lost = mem::take(&mut waiting.lost);
            let ended = waiting.ended;
            drop(waiting);
            if lost > 0 {
                // In the place of those that are missing: what waited came before them.
                let _ = writeln!(batch, "{lost} lines of the log are lost: nobody read them in time");
            }
            // Nobody is left to be told that the output is gone.
            let _ = output.write_all(&batch).and_then(|()| output.flush());
            batch.clear();
            batch.shrink_to(MOST / 16);
            if ended {
                return;
            }
            // Under load, many lines are one write.
            thread::sleep(GATHER);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.out.0.lock().ended = true;
        self.out.0.more.notify_one();
        // Ends with an error when the thread has ended: that is what is waited for.
        let _ = self.done.recv_timeout(PATIENCE);
    }
}

/// One event, written at once.
impl Write for Out {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.leave(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Out {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};

    use super::*;

    #[test]
    fn lines_come_out_in_their_order() {
        let (reader, writer) = io::pipe().unwrap();
        let (out, guard) = Out::to(writer).unwrap();
        for number in 0..1000 {
            out.leave(format!("line {number}\n").as_bytes());
        }
        drop((out, guard));
        let lines: Vec<String> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines, (0..1000).map(|number| format!("line {number}")).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stands_still() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (out, guard) = Out::to(writer).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // More than the pipe and the bound hold together, with nobody reading.
        for _ in 0..3 * MOST / line.len() {
            out.leave(&line);
        }
        let read = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        drop((out, guard));
        let text = read.join().unwrap();
        let told = text.lines().filter_map(|line| line.strip_suffix(" lines of the log are lost: nobody read them in time"));
        let lost: usize = told.map(|count| count.parse::<usize>().unwrap()).sum();
        let kept = text.lines().filter(|line| line.starts_with('x')).count();
        assert!(lost > 0 && kept * line.len() >= MOST, "{kept} kept, {lost} lost");
        assert_eq!(kept + lost, 3 * MOST / line.len());
    }
}
