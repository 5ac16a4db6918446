//! The cork against a socket that takes what it likes.

use std::{
    collections::VecDeque,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;
use tokio::io::AsyncWrite;

use super::super::cork::{CAPACITY, Clearance, LARGE, cork};
use super::*;

/// Takes as many bytes as the next number says, zero standing for "not now".
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    writes: usize,
    appetite: VecDeque<usize>,
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = self.0.lock().expect("lock");
        match taken.appetite.pop_front() {
            Some(0) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            appetite => {
                let part = &buf[..buf.len().min(appetite.unwrap_or(usize::MAX))];
                taken.bytes.extend_from_slice(part);
                taken.writes += 1;
                Poll::Ready(Ok(part.len()))
            }
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let joined: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &joined)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Small writes, writes around the two thresholds, and large ones.
fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![1..300_usize, LARGE - 2..LARGE + 2, CAPACITY - 2..CAPACITY + 2, 1..CAPACITY]
}

proptest! {
    #[test]
    fn every_byte_comes_out_once_and_in_order(
        writes in prop::collection::vec((sizes(), 1_usize..4, any::<bool>()), 1..40),
        appetite in prop::collection::vec(0_usize..40_000, 0..80),
    ) {
        let socket = Socket::default();
        socket.0.lock().expect("lock").appetite = appetite.into();
        let (mut corked, plug) = cork(socket.clone());
        let cx = &mut Context::from_waker(Waker::noop());
        let mut expected = Vec::new();
        for (index, (size, pieces, flush)) in writes.into_iter().enumerate() {
            let mut left = vec![index as u8; size];
            while !left.is_empty() {
                let slices: Vec<_> = left.chunks(size.div_ceil(pieces)).map(IoSlice::new).collect();
                match Pin::new(&mut corked).poll_write_vectored(cx, &slices) {
                    Poll::Ready(written) => {
                        let written = written.expect("no error");
                        expected.extend(left.drain(..written));
                    }
                    Poll::Pending => {}
                }
            }
            // What h2 believes flushed need not have left; what the task flushed must.
            prop_assert!(Pin::new(&mut corked).poll_flush(cx).is_ready());
            if flush {
                while plug.poll_flush(cx).is_pending() {}
                prop_assert!(socket.0.lock().expect("lock").bytes == expected);
            }
        }
        while Pin::new(&mut corked).poll_shutdown(cx).is_pending() {}
        prop_assert!(socket.0.lock().expect("lock").bytes == expected);
    }
}

#[test]
fn many_small_writes_become_one() {
    let socket = Socket::default();
    let (mut corked, plug) = cork(socket.clone());
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert!(Pin::new(&mut corked).poll_write(cx, &[1; 300]).is_ready());
        assert!(Pin::new(&mut corked).poll_flush(cx).is_ready());
    }
    assert_eq!(socket.0.lock().expect("lock").writes, 0);
    assert!(plug.poll_flush(cx).is_ready());
    let taken = socket.0.lock().expect("lock");
    assert_eq!((taken.writes, taken.bytes.len()), (1, 30_000));
}

#[test]
fn an_error_is_kept_for_the_connection_task() {
    struct Broken;
    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let (mut corked, plug) = cork(Broken);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut corked).poll_write(cx, b"x").is_ready());
    assert!(plug.failure().is_none());
    assert!(matches!(plug.poll_flush(cx), Poll::Ready(Err(_))));
    assert_eq!(plug.failure().map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
}

#[test]
fn streams_wait_while_the_socket_takes_nothing() {
    for size in [100, LARGE] {
        let socket = Socket::default();
        socket.0.lock().expect("lock").appetite = [0].into();
        let (mut corked, plug) = cork(socket.clone());
        let cx = &mut Context::from_waker(Waker::noop());
        let told = Arc::new(Told::default());
        let waker = Waker::from(Arc::clone(&told));
        let mut clearance = Clearance::new(plug.congestion());
        assert!(clearance.poll(&mut Context::from_waker(&waker)).is_ready());
        let _ = Pin::new(&mut corked).poll_write(cx, &vec![1; size]);
        let _ = plug.congestion().is_blocked() || plug.poll_flush(cx).is_ready();
        assert!(clearance.poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(told.0.load(Relaxed), 0);
        assert!(plug.poll_flush(cx).is_ready());
        assert_eq!(told.0.load(Relaxed), 1, "whoever waits is told once");
        assert!(clearance.poll(&mut Context::from_waker(&waker)).is_ready());
    }
}

/// Counts its wakes.
#[derive(Default)]
struct Told(AtomicUsize);

impl std::task::Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}
