//! A map with its key and value types, shared by descriptor.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
};

use aya::Pod;

use super::{EbpfError, sys};

/// A map. Every method is one system call and may be called from many threads.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// The caller vouches for the types: `pins` has compared their sizes with the map's.
    pub(super) fn new(name: &'static str, fd: OwnedFd) -> Self {
        Self { name, fd, types: PhantomData }
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, EbpfError> {
        sys::lookup(self.fd.as_fd(), key).map_err(|source| self.error("read", source))
    }

    pub(super) fn insert(&self, key: &K, value: &V) -> Result<(), EbpfError> {
        sys::update(self.fd.as_fd(), key, value).map_err(|source| self.error("write", source))
    }

    /// Missing entries are no error.
    pub(super) fn remove(&self, key: &K) -> Result<bool, EbpfError> {
        sys::delete(self.fd.as_fd(), key).map_err(|source| self.error("delete from", source))
    }

    /// Every key; entries that come and go meanwhile may be missed or seen twice.
    pub(super) fn keys(&self) -> Result<Vec<K>, EbpfError> {
        let mut keys = Vec::new();
        let mut at = None;
        while let Some(key) = sys::next_key(self.fd.as_fd(), at.as_ref()).map_err(|source| self.error("list", source))? {
            keys.push(key);
            at = Some(key);
        }
        Ok(keys)
    }

    /// Every entry, in no order.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, EbpfError> {
        let mut entries = Vec::new();
        for key in self.keys()? {
            if let Some(value) = self.get(&key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    fn error(&self, doing: &'static str, source: io::Error) -> EbpfError {
        EbpfError::Map { map: self.name, doing, source }
    }
}
