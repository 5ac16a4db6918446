//! Buffers that belong to a thread and are lent to whichever connection has bytes at the moment.

use std::{cell::RefCell, thread::LocalKey};

/// One read from a socket at most: eight full records.
pub(super) const READ: usize = 128 * 1024;

/// Buffers of each kind that a thread keeps when nobody needs them.
const KEPT: usize = 2;

thread_local! {
    static READS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static WRITES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`READ`] bytes.
pub(super) fn for_reading() -> Box<[u8]> {
    lend(&READS).unwrap_or_else(|| vec![0; READ].into_boxed_slice())
}

/// Takes back what [`for_reading`] lent; a buffer of another size is freed.
pub(super) fn done_reading(buffer: Box<[u8]>) {
    if buffer.len() == READ {
        take_back(&READS, buffer);
    }
}

/// An empty buffer for sealed records.
pub(super) fn for_writing() -> Vec<u8> {
    lend(&WRITES).unwrap_or_default()
}

/// Takes back what [`for_writing`] lent; one that a stalled peer made grow beyond `most` bytes is freed.
pub(super) fn done_writing(mut buffer: Vec<u8>, most: usize) {
    if buffer.capacity() > 0 && buffer.capacity() <= most {
        buffer.clear();
        take_back(&WRITES, buffer);
    }
}

fn lend<T>(kept: &'static LocalKey<RefCell<Vec<T>>>) -> Option<T> {
    // While a thread ends, its buffers are gone.
    kept.try_with(|kept| kept.borrow_mut().pop()).ok().flatten()
}

fn take_back<T>(kept: &'static LocalKey<RefCell<Vec<T>>>, buffer: T) {
    let _ = kept.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    });
}
