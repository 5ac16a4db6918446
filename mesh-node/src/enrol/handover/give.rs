//! The side of the process that runs: it gives its listeners away, once.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use tracing::{info, warn};

use super::wire::{HandoverError, Message, VERSION, Wire, unexpected};
use crate::{
    enrol::{agent::Agent, listeners::Listeners},
    state::client::chain,
};

/// How long a new process may take to set itself up while this one stands still.
const PREPARATION: Duration = Duration::from_mins(1);
/// After a failure, which may be one of this side.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Giver {
    pub node: String,
    pub instance: String,
    pub agent: Arc<Agent>,
    /// What this process does for the node as a whole; ends when another one does.
    pub services: Vec<AbortHandle>,
    /// Becomes true then.
    pub retired: watch::Sender<bool>,
}

/// Answers whoever wants to take over, on a thread of its own. Must be called inside the control runtime.
pub fn serve(listener: UnixListener, giver: Giver) -> io::Result<()> {
    let runtime = Handle::current();
    thread::Builder::new().name("handover".into()).spawn(move || {
        for stream in listener.incoming() {
            let given = stream.map_err(HandoverError::from).and_then(|stream| giver.give(stream, &runtime));
            match given {
                Ok(pods) => {
                    info!(pods, "another process has taken over; open connections go on here until it is told to end");
                    giver.retired.send_replace(true);
                    return;
                }
                Err(error) => {
                    warn!(error = %chain(&error), "another process did not take over; this one goes on");
                    thread::sleep(PAUSE);
                }
            }
        }
    })?;
    Ok(())
}

impl Giver {
    /// Returns how many pods were given away. After an error all is as it was.
    fn give(&self, stream: UnixStream, runtime: &Handle) -> Result<usize, HandoverError> {
        let mut wire = Wire::new(stream)?;
        match wire.receive()?.0 {
            Message::Hello { version, node, instance }
                if version == VERSION && (&node, &instance) == (&self.node, &self.instance) => {}
            Message::Hello { version, node, instance } => {
                let why = format!(
                    "version {version} of node {node}, instance {instance}, met version {VERSION} of node {}, instance {}",
                    self.node, self.instance
                );
                wire.send(&Message::Refused { why: why.clone() }, &[])?;
                return Err(HandoverError::Refused { why });
            }
            other => return Err(unexpected(&other)),
        }
        // No pod joins or leaves until it is over: the other side reads and writes the same pins.
        let standing = runtime.block_on(self.agent.changes.lock());
        wire.send(&Message::Standing { release: env!("CARGO_PKG_VERSION").to_owned() }, &[])?;
        match wire.receive_within(PREPARATION)?.0 {
            Message::Give => {}
            other => return Err(unexpected(&other)),
        }
        let parcels = self.agent.parcels()?;
        for (parcel, listeners) in &parcels {
            wire.send(&Message::Pod(parcel.clone()), &descriptors(listeners))?;
        }
        wire.send(&Message::End, &[])?;
        match wire.receive()?.0 {
            Message::Done => {}
            other => return Err(unexpected(&other)),
        }
        self.agent.retire();
        self.services.iter().for_each(AbortHandle::abort);
        drop(standing);
        // Whether it is heard does not matter any more.
        let _ = wire.send(&Message::Retired, &[]);
        Ok(parcels.len())
    }
}

fn descriptors(Listeners { outbound, plaintext, hbone }: &Listeners) -> Vec<BorrowedFd<'_>> {
    outbound.iter().map(AsFd::as_fd).chain([plaintext.as_fd(), hbone.as_fd()]).collect()
}
