//! Pings of one connection: they find a peer that is gone, and measure the round trip.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{settings::Settings, window::Windows};

/// Polled by the connection task, next to the connection.
pub(super) struct KeepAlive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    state: State,
    interval: Duration,
    timeout: Duration,
}

enum State {
    /// The next ping goes out when the timer fires.
    Quiet,
    /// Sent and not answered; the peer is gone when the timer fires.
    Waiting { since: Instant },
}

/// The peer did not answer in time.
#[derive(Debug)]
pub(super) struct PeerGone;

impl KeepAlive {
    /// The first ping goes out at once, to know the round trip.
    pub(super) fn new(pings: PingPong, settings: &Settings) -> Self {
        Self {
            pings,
            timer: Box::pin(sleep_until(Instant::now())),
            state: State::Quiet,
            interval: settings.ping_interval,
            timeout: settings.ping_timeout,
        }
    }

    /// Ready when the peer is gone. A connection error is left to the connection's own future to report.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, windows: &Windows) -> Poll<PeerGone> {
        loop {
            match self.state {
                State::Quiet => {
                    ready!(self.timer.as_mut().poll(cx));
                    if self.pings.send_ping(Ping::opaque()).is_err() {
                        return Poll::Pending;
                    }
                    let now = Instant::now();
                    self.state = State::Waiting { since: now };
                    self.timer.as_mut().reset(now + self.timeout);
                }
                State::Waiting { since } => match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        windows.note_round_trip(since.elapsed());
                        self.state = State::Quiet;
                        self.timer.as_mut().reset(since + self.interval);
                    }
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {
                        ready!(self.timer.as_mut().poll(cx));
                        return Poll::Ready(PeerGone);
                    }
                },
            }
        }
    }
}
