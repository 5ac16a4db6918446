//! Connections that stay open, and what becomes of them: `shop client hold` under a test's eyes.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use harness::{Lab, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::PATIENCE;

/// Connections of one pod to one target.
#[derive(Debug)]
pub struct Held {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Held {
    /// Opens `count` connections, each of which has had a line answered when this returns.
    pub fn open(lab: &Lab, pod: &str, target: impl ToString, count: usize) -> Self {
        let held = Self::begin(lab, pod, target, count, &[]);
        let open = held.wait_for("open");
        assert_eq!((open["open"].as_u64(), open["failed"].as_u64()), (Some(count as u64), Some(0)), "{:?}", held.events());
        held
    }

    /// The same without waiting for them, with further arguments.
    pub fn begin(lab: &Lab, pod: &str, target: impl ToString, count: usize, extra: &[&str]) -> Self {
        let (target, count) = (target.to_string(), count.to_string());
        let mut words = vec!["shop", "client", "hold", &target, "-n", &count, "--line", "hold", "--timeout", "30"];
        words.extend(extra);
        let mut child = lab.spawn_in(pod, &words).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (output, heard) = (child.stdout.take().expect("a pipe"), events.clone());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    heard.lock().unwrap().push(event);
                }
            }
        });
        Self { child, events, reader: Some(reader) }
    }

    /// All that was heard so far.
    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// How often an event of this kind was heard.
    pub fn count(&self, event: &str) -> usize {
        self.events().iter().filter(|heard| heard["event"] == event).count()
    }

    /// Waits for the first event of this kind.
    pub fn wait_for(&self, event: &str) -> Value {
        self.wait_for_within(event, PATIENCE)
    }

    /// The same with a deadline of its own.
    pub fn wait_for_within(&self, event: &str, deadline: Duration) -> Value {
        let mut found = None;
        let waited = wait_until(&format!("the event {event}"), deadline, || {
            found = self.events().into_iter().find(|heard| heard["event"] == event);
            Ok(found.is_some())
        });
        waited.unwrap_or_else(|error| panic!("{error:#}; heard: {:?}", self.events()));
        found.expect("the wait ends with one")
    }

    /// Waits until as many connections have broken, and returns how each did.
    pub fn wait_broken(&self, count: usize) -> Vec<String> {
        wait_until(&format!("{count} connections to break"), PATIENCE, || Ok(self.count("closed") >= count))
            .unwrap_or_else(|error| panic!("{error:#}; heard: {:?}", self.events()));
        let closed = self.events().into_iter().filter(|heard| heard["event"] == "closed");
        closed.map(|heard| heard["outcome"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Has each connection answer once more and end; `(held, broken)`.
    pub fn end(mut self) -> (u64, u64) {
        self.terminate();
        let end = self.wait_for("end");
        (end["held"].as_u64().unwrap(), end["broken"].as_u64().unwrap())
    }

    /// [`Self::end`], with every connection still alive.
    pub fn end_whole(self) {
        let events = self.events.clone();
        let (held, broken) = self.end();
        assert!(held > 0 && broken == 0, "{held} held, {broken} broken: {:?}", events.lock().unwrap());
    }

    fn terminate(&mut self) {
        // Ended already is as good.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
